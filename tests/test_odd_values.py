"""An odd value for any setting or flag of either package is refused in one line with exit code 2, before any work."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from eyechart.cli import main as eyechart
from eyechart.exits import guarded
from eyechart.settings import ScoreSettings, require_count
from qwen3_vlm import cli
from qwen3_vlm.commands.ablate import Ablate
from qwen3_vlm.commands.caption import Caption
from qwen3_vlm.commands.diagnose import Diagnose
from qwen3_vlm.commands.trial import Trial
from qwen3_vlm.config import Config, load_config
from qwen3_vlm.demo.tiny.__main__ import main as tiny
from qwen3_vlm.demo.tiny.maker import Options

NEVER = [
    "nan",
    ".nan",
    ".inf",
    "-.inf",
    "1e400",
    "-1",
    "-1e30",
    "9" * 5000,
    "abc",
    "''",
    "[]",
    "[1]",
    "{a: 1}",
    "\u0661",
]
"""Values that no number in a config may have, as they are typed."""
NO_COUNT = [*NEVER, "0.5", "1e30", "9" * 30]
"""Values that no whole number may have either."""
NO_FLAG = ["nan", "inf", "-1", "-" + "9" * 25, "9" * 25, "9" * 5000, "abc", "", "1.5", "1e3"]


def numbers(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type, Any]]:
    """Every number of a config: its name, whether it is `int` or `float`, and its field."""
    for name, field in section.model_fields.items():
        kinds = {field.annotation, *typing.get_args(field.annotation)}
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from numbers(field.annotation, f"{prefix}{name}.")
        elif int in kinds or float in kinds:
            yield f"{prefix}{name}", float if float in kinds else int, field


OURS = [(name, kind) for name, kind, _ in numbers(Config) if name != "train.betas"]
THEIRS = [(name, kind) for name, kind, _ in numbers(ScoreSettings)]
THEIR_FLAGS = ["num_samples", "image_size", "max_seq_len", "max_rejected", "batch_size", "seed", "threads"]
FLAGS = {
    "trial": (Trial, []),
    "ablate": (Ablate, ["--checkpoint", "none.pt"]),
    "diagnose": (Diagnose, ["--config", "none.yaml"]),
    "caption": (Caption, ["--checkpoint", "none.pt", "none.png"]),
    "tiny": (Options, ["--data", "none.json"]),
}
"""The commands that have numbers of their own, with arguments that only come later."""


def refused(code: int, captured: Any, named: str) -> None:
    assert code == 2, captured.err
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    assert named in captured.err and len(captured.err) < 700, captured.err


@pytest.mark.parametrize(("name", "kind"), OURS)
def test_a_number_in_the_config_that_is_none_or_out_of_range_is_refused(
    name: str, kind: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("{}", encoding="utf-8")
    for value in NO_COUNT if kind is int else NEVER:
        code = guarded(lambda value=value: len(load_config(path, [f"--{name}={value}"]).output_dir), "qwen3_vlm")
        refused(code, capsys.readouterr(), name)


@pytest.mark.parametrize("value", ["[1]", "[1, 2, 3]", "[0, .nan]", "[-1, 0]", "[0, 1]", "0.9", "[[0], 0]"])
def test_two_running_average_factors_are_expected(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("{}", encoding="utf-8")
    code = guarded(lambda: len(load_config(path, ["--train.betas", value]).output_dir), "qwen3_vlm")
    refused(code, capsys.readouterr(), "train.betas")


@pytest.mark.parametrize(("name", "kind"), THEIRS)
def test_a_setting_of_a_score_that_is_none_or_out_of_range_is_refused(
    name: str, kind: type, capsys: pytest.CaptureFixture[str]
) -> None:
    never = ["NaN", "Infinity", "-1", "9" * 5000, "abc", "[]", "{}", '""']
    for value in [*never, "0.5", "9" * 30] if kind is int else never:
        code = eyechart(["score", "none", "--data", "none.json", "--set", name, value])
        refused(code, capsys.readouterr(), name.rpartition(".")[2] if name != "image_size" else "")


@pytest.mark.parametrize("section", [Config, ScoreSettings])
def test_every_whole_number_of_a_config_has_a_largest_value(section: type[BaseModel]) -> None:
    open_ended = [
        name
        for name, kind, field in numbers(section)
        if kind is int and not any(hasattr(rule, sign) for rule in field.metadata for sign in ("le", "lt"))
    ]
    assert open_ended == (["train.ablate_every"] if section is Config else ["image_size"]), "these check it themselves"


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (command, field.name)
        for command, (kind, _) in FLAGS.items()
        for field in fields(kind)
        if field.type in ("int", "int | None", "float")
    ],
)
def test_an_odd_number_for_a_flag_is_refused_before_a_file_is_opened(
    command: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short_form = flag in ("max_seq_len", "batch_size")  # a field of the config, which is read from the checkpoint
    for value in ["nan", "inf", "-1", "2", "abc", ""] if flag == "eval_ratio" else [*NO_FLAG, "0"]:
        if flag == "seed" and value == "0":
            continue
        arguments = [*FLAGS[command][1], f"--{flag}={value}"]
        code = tiny(arguments) if command == "tiny" else cli.main([command, *arguments])
        refused(code, (said := capsys.readouterr()), "")
        assert flag in said.err.replace("-", "_") or (short_form and "none.pt: no such checkpoint" in said.err)


@pytest.mark.parametrize("flag", THEIR_FLAGS)
@pytest.mark.parametrize("command", ["score", "check"])
def test_an_odd_number_for_a_flag_of_eyechart_is_refused(
    command: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ["nan", "-1", "9" * 25, "9" * 5000, "abc", "", "1e400"]:
        code = eyechart([command, "none", "--data", "none.json", f"--{flag}={value}"])
        refused(code, capsys.readouterr(), flag if flag != "image_size" else "")  # its range depends on the data


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
@pytest.mark.parametrize("name", ["output_dir", "data.json_file", "data.image_root", "data.eval_json", "model.llm"])
def test_a_text_that_cannot_name_a_file_is_refused(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree: dict[str, Any] = {}
    *sections, key = name.split(".")
    (tree.setdefault(sections[0], {}) if sections else tree)[key] = text
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    refused(
        cli.main(["audit", "--config", str(path)]), capsys.readouterr(), name if text == "a\0b" else "not valid Unicode"
    )


def test_a_count_has_both_bounds() -> None:
    require_count("--rows", 1)
    require_count("--rows", None)
    for value in (0, 2**31, 10**6000):
        with pytest.raises(ValueError, match="--rows: expected a number from 1 to 2,147,483,647, got "):
            require_count("--rows", value)
