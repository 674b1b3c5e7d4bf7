"""docs/data.md: each example of a file is understood as the layout that the page says, and each program runs."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from eyechart import cli
from eyechart.data.layouts import LAYOUTS, ROLES
from eyechart.data.summary import inspect_rows

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
FILE = re.compile(r"^`([\w.]+)`, layout `([\w-]+)`[^\n]*:\n\n```\w+\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^```python\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files and images of the page."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Image.new("RGB", (24, 24), "red").save(f"{name}.png")
        Path(f"{name}.txt").write_text("a red circle")
    for name, _, content in FILE.findall(PAGE):
        Path(name).write_text(content, encoding="utf-8")
    Path("titles.csv").write_text("picture,title\na.png,a red circle\n")
    return tmp_path


def test_every_example_has_the_layout_that_the_page_names(folder: Path) -> None:
    named = {name: layout for name, layout, _ in FILE.findall(PAGE)}
    assert set(named.values()) == set(LAYOUTS)
    for name, layout in named.items():
        report, *_ = inspect_rows(name)
        assert (report.layout, report.usable, report.rejected) == (layout, report.rows, {}), name


def test_every_program_runs_and_what_it_writes_is_understood(folder: Path) -> None:
    programs = PROGRAM.findall(PAGE)
    written = {"shard-000.tar": ("captions", 2), "rows.parquet": ("prompt-completion", 1), "saved": ("captions", 2)}
    for program in programs:
        if "from datasets" in program and importlib.util.find_spec("datasets") is None:
            del written["saved"]
            continue
        exec(compile(program, "docs/data.md", "exec"), {})
    for name, (layout, rows) in written.items():
        report, *_ = inspect_rows(name)
        assert (report.layout, report.usable) == (layout, rows)
    assert len(programs) == 4


def test_every_command_of_the_instrument_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [shlex.split(line) for line in re.findall(r"^eyechart (.*)$", PAGE, flags=re.MULTILINE)]
    assert len(commands) == 2
    for command in commands:
        assert cli.main(command) == 0 and "usable" in capsys.readouterr().out


def test_every_layout_and_key_is_on_the_page() -> None:
    keys = {key for groups in ROLES.values() for group in groups for key in group}
    assert [word for word in (*LAYOUTS, *ROLES, *sorted(keys)) if f"`{word}`" not in PAGE] == []
