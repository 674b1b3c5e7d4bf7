"""What the benchmark of threads gives a stack in an environment of its own, and what it makes of the answer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import thread_launch
import threads
from eyechart.data.reader import read_rows
from thread_launch import LAUNCHED, ROWS, Launch, launch
from thread_rows import items_of


def written(stack: str, folder: Path, **more: Any) -> tuple[Launch, list[str]]:
    folder.mkdir(exist_ok=True)
    one = Launch(stack, folder / "checkpoint", folder, 0, items_of(ROWS, 0), **more)
    return one, thread_launch._COMMANDS[stack](one)


@pytest.mark.parametrize("stack", LAUNCHED)
def test_rows_and_pictures_are_written_in_the_layout_of_the_stack(stack: str, tmp_path: Path) -> None:
    one, _ = written(stack, tmp_path)
    (file,) = (path for path in tmp_path.glob("rows.json*") if path.is_file())
    rows, rejects = read_rows(file, image_root=tmp_path)
    assert not rejects and len(rows) == ROWS == len(list((tmp_path / "pictures").iterdir()))
    assert [row.caption for row in rows[:3]] == [item.texts[1] for item in one.rows[:3]]


@pytest.mark.parametrize("stack", ["LLaMA-Factory", "axolotl"])
def test_settings_of_a_case_replace_those_of_the_example_or_leave_them_out(stack: str, tmp_path: Path) -> None:
    _, (name,) = written(stack, tmp_path, settings={"learning_rate": 3.0, "max_steps": None})
    config = yaml.safe_load((tmp_path / name).read_text(encoding="utf-8"))
    assert config["learning_rate"] == 3.0 and "max_steps" not in config


def test_settings_of_a_case_reach_the_command_line_of_ms_swift(tmp_path: Path) -> None:
    _, arguments = written("ms-swift", tmp_path, settings={"max_length": 24})
    assert arguments[arguments.index("--max_length") + 1] == "24"


def test_outcomes_are_read_and_a_training_that_wrote_none_counts_as_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack writes the outcome of its first training and ends in the second."""

    def run(command: list[Path], **_: Any) -> SimpleNamespace:
        first = json.loads(command[2].read_text(encoding="utf-8"))[0]
        Path(first["outcome"]).write_text(json.dumps({"loss": 4.0, "findings": [["no-labels", "error"]]}))
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(thread_launch.subprocess, "run", run)
    (done, _), (lost, _) = (written("LLaMA-Factory", tmp_path / name) for name in "ab")
    read, broken = launch([done, lost])
    assert read.findings == [("no-labels", "error")] and read.loss == 4.0 and not read.broken
    assert broken.broken and "exit 1" in broken.error


def test_cases_of_a_stack_without_its_environment_are_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "exists", lambda stack: False)
    monkeypatch.setattr(threads, "run_launched", lambda stack, names: pytest.fail("started"))
    threads.run_all(["lf-full", "lf-cutoff"])
    assert "LLaMA-Factory: no environment (`make stack-environments`)" in capsys.readouterr().out
