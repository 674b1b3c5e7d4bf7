"""`benchmarks/models.py`: what counts as right, and its page."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
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
    git = Outcome("git", "refused", "5.23.0", "error: MODEL: has <none> | at all")
    text = page([Outcome("llava", "right", "5.23.0", "", 2e-6), git])
    assert "| right | 1 |" in text and "| wrong | 0 |" in text
    assert "| llava | 2e-06 |" in text and "| git | MODEL: has &lt;none> \\| at all |" in text


def test_the_page_has_the_newest_version_and_the_most_used_types_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.0")
    newest = Outcome("llava", "right", "5.23.0", "", 2e-6)
    text = page([Outcome("llava", "refused", "5.6.0", "error: MODEL: too old"), newest, replace(newest, kind="git")])
    assert "on transformers 5.23.0" in text and "| right | 2 |" in text and "| refused | 0 |" in text
    assert "| llava | refused | right 2e-06 |" in text and "| git | refused" not in text
    assert "| mllama | - | - |" in text and "- llava, 5.6.0: refused: MODEL: too old" in text


def test_a_later_result_of_a_type_counts_for_its_version(tmp_path: Path) -> None:
    lines = [
        Outcome("llava", "wrong", "5.6.0"),
        Outcome("llava", "right", "5.23.0"),
        Outcome("llava", "right", "5.6.0"),
    ]
    (tmp_path / "r.jsonl").write_text("".join(f"{json.dumps(asdict(line))}\n" for line in lines), encoding="utf-8")
    assert sorted((o.transformers, o.outcome) for o in models._read(tmp_path / "r.jsonl")) == [
        ("5.23.0", "right"),
        ("5.6.0", "right"),
    ]


def test_every_exception_is_about_a_registered_type() -> None:
    known = set(model_checkpoints.types())
    assert len(known) > 40
    if len(known) > 90:  # the newest transformers, for which the table was written
        assert set(models.SPECIAL) <= known
