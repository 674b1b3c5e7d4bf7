"""Every number that a detector compares with names what it rests on: script, data and false alarms, or a reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import faults
import thresholds

ROOT = Path(__file__).parents[1]
FILES = sorted(
    [
        *(ROOT / "eyechart/src/eyechart/faults").glob("*.py"),
        *(ROOT / "src/qwen3_vlm/preflight").glob("*.py"),
        *(ROOT / "src/qwen3_vlm/train" / name for name in ("watch.py", "guards.py")),
    ]
)
PAGE = (ROOT / "docs/thresholds.md").read_text(encoding="utf-8")
_MEASURED = re.compile(r"# measured: ((?:benchmarks|eyechart/tests)/\w+\.py) on (\w.*): (\d+) of (\d+)")
_REASONED = re.compile(r"# (exact|size): \S+ \S+")


def is_number(value: ast.expr) -> bool:
    """Whether an expression is a number, or a tuple with one."""
    if isinstance(value, ast.Constant):
        return isinstance(value.value, int | float) and not isinstance(value.value, bool)
    if isinstance(value, ast.UnaryOp):
        return is_number(value.operand)
    if isinstance(value, ast.BinOp):
        return is_number(value.left) and is_number(value.right)
    return isinstance(value, ast.Tuple | ast.List) and any(map(is_number, value.elts))


def unexplained(source: str) -> list[str]:
    """The numbers at the top of a module without a line above them that says what they rest on."""
    lines, found = source.splitlines(), []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and is_number(node.value):
            above = lines[node.lineno - 2] if node.lineno > 1 else ""
            if not (_MEASURED.match(above) or _REASONED.match(above)):
                found.append(lines[node.lineno - 1])
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_threshold_names_what_it_rests_on(file: Path) -> None:
    assert unexplained(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ("_A = 0.1\n", ["_A = 0.1"]),
        ("# a comment\n_A: float = 0.1\n", ["_A: float = 0.1"]),
        ("# measured: somewhere\n_A, _B = 1, 2\n", ["_A, _B = 1, 2"]),
        ("# measured: benchmarks/faults.py on scenes: 0 of 79\n_A = 2**-18 / 3\n", []),
        ("# exact: arithmetic alone\n_A = (0.1, 10.0)\n", []),
        ("# size: names shown\n_A = 3\n_NAMES = ('a', 'b')\n", []),
    ],
)
def test_a_threshold_without_such_a_line_is_found(source: str, bare: list[str]) -> None:
    assert unexplained(source) == bare


def test_the_scripts_exist_and_their_counts_are_those_of_the_page() -> None:
    rows = dict(re.findall(r"^\| (\w+\.\w+)(?: \([\w ]+\))? \|.*\| (\d+ of \d+) \| [\d.]+% \|$", PAGE, re.M)[::-1])
    for file in FILES:
        source = file.read_text(encoding="utf-8")
        for match in re.finditer(r"^(# measured: .*)\n([\w, ]+?)(?:: .*)? = ", source, re.M):
            found = _MEASURED.match(match[1])
            assert found is not None and (ROOT / found[1]).is_file(), match[0]
            if found[1].endswith("thresholds.py"):
                names = [f"{file.stem}.{name}" for name in match[2].split(", ")]
                assert f"{found[3]} of {found[4]}" in [rows.get(name) for name in names], (match[0], names)
            elif found[1].endswith("faults.py"):
                assert int(found[4]) <= len(faults.HEALTHY), match[0]


def test_the_page_has_a_line_for_every_cut_and_its_present_value() -> None:
    for cut in thresholds.CUTS:
        row = f"| {cut.module.split('.')[-1]}.{cut.constant} | {cut.value:.3g} | {cut.statistic}; {cut.wrong} |"
        assert row in PAGE, row


def test_values_on_the_wrong_side_are_counted_with_an_upper_limit() -> None:
    below = thresholds.Cut("m", "_A", 0.1, "below", "a share")
    above = thresholds.Cut("m", "_A", 0.1, "above", "a share")
    values = [0.05, 0.1, 0.5]
    assert thresholds.false_alarms(below, values) == thresholds.false_alarms(above, values) == 1
    assert thresholds.upper(0, 79) == pytest.approx(0.033, abs=0.001), "Wilson, one-sided 95%"
    assert thresholds.upper(3, 3) == pytest.approx(1.0)
