"""Rows on which the trainer's collator fails: the cause is named where the rows show it, otherwise in one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import eyechart
from eyechart.exits import FaultsFoundError
from eyechart.faults.uncollated import cut_in_image
from saved_models import Saved, saved
from trainings import Collator, Rows, model_of, trainer_of

pytest.importorskip("accelerate")

__all__ = ["saved"]

IMAGE, WORD = 7, 3
FAILED = RuntimeError("shape mismatch: value tensor of shape [3, 19]")
QUIET = eyechart.Watching(score=0, looks="off")


def found(*rows: Any) -> Any:
    return cut_in_image(range(len(rows)), rows, None, SimpleNamespace(image_token_id=IMAGE), FAILED)


CUT = {"input_ids": [WORD, WORD, IMAGE, IMAGE]}
WHOLE = {"input_ids": [IMAGE, WORD, WORD]}


def test_rows_that_end_in_an_image_position_are_named_with_what_the_collator_said() -> None:
    one = found(CUT, WHOLE, CUT)
    assert one.code == "image-truncated" and one.severity == "error" and one.evidence["rows"] == [0, 2]
    assert "rows 0, 2 of the training data end inside an image" in one.message and "shape mismatch" in one.message


def labelled(prompt: list[int], answer: int) -> dict[str, list[int]]:
    return {"input_ids": prompt + [WORD] * answer, "labels": [-100] * len(prompt) + [WORD] * answer}


def test_prompts_that_end_in_an_image_position_are_named_though_their_answers_are_there() -> None:
    cut, whole = labelled([WORD, IMAGE, IMAGE], 2), labelled([IMAGE, IMAGE, WORD], 2)
    assert found(whole, cut, cut).evidence["rows"] == [1, 2] and found(whole, whole) is None


def test_rows_of_many_lengths_whose_prompt_is_an_image_are_not_named() -> None:
    assert found(*(labelled([IMAGE, IMAGE], answer) for answer in (3, 5, 4))) is None


@pytest.mark.parametrize("row", [{"input_ids": [IMAGE, WORD]}, {"input_ids": []}, {"text": "a"}, ("a", "b")])
def test_rows_that_end_in_text_or_hold_no_ids_are_not_named(row: Any) -> None:
    assert found(row) is None


class Tokenised(Rows):
    """Rows as a stack keeps them that tokenises first; if `cut`, up to the second token of the image."""

    def __init__(self, made: Any, cut: bool) -> None:
        super().__init__(16)
        self.tokenised = []
        for item in self.items:
            ids = made.batch([item])["input_ids"][0].tolist()
            stop = ids.index(made.config.image_token_id) + 2 if cut else len(ids)
            self.tokenised.append({"input_ids": ids[:stop], "item": item})

    def __getitem__(self, index: int) -> Any:
        return self.tokenised[index]


class Positions(Collator):
    """A collator that fails as one that computes positions does; `limit` is the number of calls that fail."""

    limit = 1_000

    def __call__(self, items: list[Any]) -> dict[str, Any]:
        self.limit -= 1
        if self.limit >= 0:
            raise FAILED
        return super().__call__([item["item"] for item in items])


def test_rows_cut_inside_their_image_stop_the_training_by_name_where_the_collator_fails(
    saved: Saved, tmp_path: Path
) -> None:
    model, made = model_of(saved)
    trainer = trainer_of(model, Positions(made), tmp_path, Tokenised(made, cut=True))
    eyechart.attach(trainer, watching=QUIET)
    with pytest.raises(FaultsFoundError, match="image-truncated: rows .* end inside an image"):
        trainer.train()


def test_a_collator_that_fails_on_other_rows_is_one_line_and_the_first_batch_is_checked(
    saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, made = model_of(saved)
    collate = Positions(made, "answers")
    collate.limit = 1
    trainer = trainer_of(model, collate, tmp_path, Tokenised(made, cut=False))
    callback = eyechart.attach(trainer, watching=QUIET)
    assert trainer.train().global_step == 4
    said = capsys.readouterr()
    assert "eyechart: no batch of the first rows: RuntimeError: shape mismatch" in said.out + said.err
    assert "first batch: no fault found" in said.out + said.err and callback.findings == []
