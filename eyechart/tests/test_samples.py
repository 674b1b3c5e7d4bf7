"""samples.parquet holds what was scored, and results.json the samples in their order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from eyechart.reporting import parquet
from eyechart.reporting.parquet import SampleRows, write_samples
from eyechart.results import END
from eyechart.scoring.samples import decoder, scored_samples
from eyechart.scoring.summary import SampleScore
from eyechart.seam import Vocabulary

ROOT = Path(__file__).parents[2]
WORDS = {0: "<|endoftext|>", 1: "a", 2: " red", 3: " cat", 4: " blue"}
EOS = 0


def decode(ids: list[int]) -> str:
    return "".join(WORDS[i] for i in ids)


def score(row: int, gap: float, **changes: Any) -> SampleScore:
    """A caption of four tokens whose wrong pictures cost `gap` nats per token, in two derangements that differ."""
    correct_T = np.array([1.0, 0.5, 0.25, 0.0])
    fields: dict[str, Any] = {
        "row": row,
        "id": f"id{row}",
        "image": f"{row}.png",
        "caption": "a red cat",
        "image_hash": f"hash{row}",
        "label_ids_T": np.array([1, 2, 3, EOS]),
        "donors": (0, 0),
        "nll": {
            "correct": [correct_T],
            "shuffled": [correct_T + gap + 0.5, correct_T + gap - 0.5],
            "no-image": [correct_T + 0.1],
        },
    }
    return SampleScore(**{**fields, **changes})


def test_the_file_has_a_row_per_sample_with_averages_over_the_derangements(tmp_path: Path) -> None:
    scores = [score(7, 2.0, donors=(0, 1)), score(9, 1.0)]
    write_samples(SampleRows(scores, decode), tmp_path / "samples.parquet")
    first, second = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert first == {
        "id": "id7",
        "row": 7,
        "image": "7.png",
        "image_hash": "hash7",
        "caption": "a red cat",
        "tokens": ["a", " red", " cat", "<|endoftext|>"],
        "token_ids": [1, 2, 3, 0],
        "donors": [7, 9],
        "nll_correct": [1.0, 0.5, 0.25, 0.0],
        "nll_shuffled": [3.0, 2.5, 2.25, 2.0],
        "nll_no-image": [1.1, 0.6, 0.35, 0.1],
    }
    assert second["row"] == 9 and second["nll_shuffled"] == [2.0, 1.5, 1.25, 1.0]


def test_losses_that_are_not_finite_are_kept_as_they_are(tmp_path: Path) -> None:
    broken = score(1, 0.0, nll={"correct": [np.array([np.nan, np.inf, 1.0, 0.0])]})
    write_samples(SampleRows([broken], decode), tmp_path / "samples.parquet")
    (row,) = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert np.isnan(row["nll_correct"][0]) and np.isinf(row["nll_correct"][1])


def test_no_sample_makes_an_empty_table(tmp_path: Path) -> None:
    write_samples(SampleRows([], decode), tmp_path / "samples.parquet")
    table = pq.read_table(tmp_path / "samples.parquet")
    assert table.num_rows == 0 and "tokens" in table.column_names


def test_many_samples_are_written_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_ROWS", 3)
    write_samples(SampleRows([score(row, 1.0) for row in range(8)], decode), tmp_path / "samples.parquet")
    file = pq.ParquetFile(tmp_path / "samples.parquet")
    assert file.num_row_groups == 3
    assert file.read().column("row").to_pylist() == list(range(8))


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    write_samples(SampleRows([score(1, 1.0)], decode), path)
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write_samples(SampleRows([score(2, 1.0, label_ids_T=np.array([1, 99, 3, 0]))], decode), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["samples.parquet"]


def test_the_columns_are_those_of_the_documentation() -> None:
    described = re.findall(
        r"^\| `([\w<>]+)` \|", (ROOT / "docs" / "report.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    names = SampleRows([score(1, 1.0)], decode).schema.names
    assert [name for name in names if not name.startswith("nll_")] == described[:-1]
    assert described[-1] == "nll_<condition>"


def test_the_documented_snippet_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    assert sum(bool(line.strip()) for line in snippet.splitlines()) == 3
    write_samples(SampleRows([score(1, 2.0), score(2, 1.0)], decode), tmp_path / "samples.parquet")
    exec(snippet.replace("outputs/stage1_align_tiny", str(tmp_path)), {})  # noqa: S102
    assert " red" in capsys.readouterr().out


def test_samples_come_from_the_most_to_the_least_image_driven() -> None:
    listed = scored_samples([score(1, 0.1), score(2, 3.0), score(3, -1.0), score(4, 0.1)], Vocabulary(decode, EOS))
    assert [sample.row for sample in listed] == [2, 1, 4, 3]
    assert listed[0].losses == pytest.approx({"correct": 1.75, "shuffled": 13.75, "no-image": 2.15})


def test_of_very_many_samples_an_even_choice_is_listed() -> None:
    listed = scored_samples([score(row, -row) for row in range(101)], Vocabulary(decode, EOS), limit=5)
    assert [sample.row for sample in listed] == [0, 25, 50, 75, 100]


def test_captions_are_cut_into_words_with_the_end_last() -> None:
    (sample,) = scored_samples([score(1, 2.0)], Vocabulary(decode, EOS))
    assert [(piece.text, piece.gap) for piece in sample.pieces] == [
        ("a", 2.0),
        (" red", 2.0),
        (" cat", 2.0),
        (END, 2.0),
    ]


def test_a_loss_that_is_not_finite_is_left_out_and_its_sample_comes_last() -> None:
    broken = score(1, 9.0, nll={**score(1, 9.0).nll, "shuffled": [np.array([np.nan, 1, 1, 1])]})
    listed = scored_samples([broken, score(2, -5.0)], Vocabulary(decode, EOS))
    assert [sample.row for sample in listed] == [2, 1]
    assert set(listed[1].losses) == {"correct", "no-image"} and listed[1].pieces == []


def test_without_shuffled_the_order_is_that_of_the_rows() -> None:
    only = [score(row, 1.0, nll={"correct": [np.ones(4)]}) for row in (5, 6)]
    assert [sample.row for sample in scored_samples(only, Vocabulary(decode, EOS))] == [5, 6]


def test_special_tokens_are_kept_as_text(tokenizer: Any) -> None:
    assert decoder(tokenizer)([tokenizer.eos_token_id]) == "<|endoftext|>"
