"""`benchmarks/models.py`: what counts as right, and its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import model_checkpoints
import models
from model_page import Outcome, page

LOSSES = [1.0, 2.0, 0.5]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of one type for which eyechart and its own forward agree; one row, whose donor is itself."""
    monkeypatch.setattr(models, "ROWS", 1)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "out").mkdir()
    write(tmp_path / "checkpoint" / "config.json", {})
    write(tmp_path / "asked.json", [{"row": 0, "image": "a.png", "donors": ["b.png"]}])
    write(
        tmp_path / "own.json", [{"row": 0, "picture": p, "ids": [5, 6, 7], "nll": LOSSES} for p in ("a.png", "b.png")]
    )
    scored(tmp_path)
    return tmp_path


def write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


def scored(folder: Path, **changes: Any) -> None:
    row = {"row": 0, "token_ids": [5, 6, 7], "nll_correct": LOSSES, "nll_shuffled": LOSSES, **changes}
    pq.write_table(pa.Table.from_pylist([row]), folder / "out" / "samples.parquet")


def test_equal_losses_are_right_also_if_eyechart_alone_scores_the_end(folder: Path) -> None:
    assert models._compared("llava", folder) == ("right", "", 0.0)
    scored(folder, token_ids=[5, 6, 7, 1], nll_correct=[*LOSSES, 9.0], nll_shuffled=[*LOSSES, 9.0])
    assert models._compared("llava", folder)[0] == "right"


@pytest.mark.parametrize("column", ["nll_correct", "nll_shuffled"])
def test_another_loss_is_wrong(column: str, folder: Path) -> None:
    scored(folder, **{column: [1.0, 2.0003, 0.5]})
    assert models._compared("llava", folder)[:2] == ("wrong", "3.0e-04")
    write(folder / "checkpoint" / "config.json", {"num_experts": 4})
    assert models._compared("llava", folder)[0] == "right"


def test_a_loss_that_is_not_a_number_is_wrong(folder: Path) -> None:
    scored(folder, nll_correct=[1.0, float("nan"), 0.5])
    assert models._compared("llava", folder)[0] == "wrong"


def test_another_tokenisation_is_wrong(folder: Path) -> None:
    scored(folder, token_ids=[5, 9, 7])
    outcome, line, _ = models._compared("llava", folder)
    assert outcome == "wrong" and "tokenised to [5, 6, 7], not to [5, 9, 7]" in line


def test_a_job_that_fails_gives_its_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        ended = models._forked("make", tmp_path, lambda: json.loads("{"))
    assert ended.code == 70 and ended.line.startswith("JSONDecodeError: ")


def test_the_page_counts_every_outcome_and_names_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.0")
    text = page([Outcome("llava", "right", "", 2e-6), Outcome("git", "refused", "error: MODEL: has <none> | at all")])
    assert "| right | 1 |" in text and "| wrong | 0 |" in text
    assert "| llava | 2e-06 |" in text and "| git | MODEL: has &lt;none> \\| at all |" in text


def test_every_exception_is_about_a_registered_type() -> None:
    known = set(model_checkpoints.types())
    assert len(known) > 40
    if len(known) > 90:  # the newest transformers, for which the table was written
        assert set(models.SPECIAL) <= known
