"""Scores of live models of several families on batches of a collator, against the models' own forward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from collators import collate, load, own_losses, picture
from eyechart.models import opening
from eyechart.models.doors import GateDoor, OfficialDoor, PixelDoor, parameters_of
from eyechart.models.live import LiveScorer
from eyechart.models.opening import open_live
from eyechart.scoring.ablation import ablate
from eyechart.scoring.plan import Plan
from eyechart.scoring.summary import Scores
from eyechart.settings import AblationSettings
from saved_models import Saved, saved
from tiny_architectures import ARCHITECTURES

__all__ = ["saved"]
CLOSE = {"rtol": 0, "atol": 1e-4}


def scored(scorer: LiveScorer, conditions: tuple[str, ...] = ("correct", "shuffled"), rounds: int = 1) -> Scores:
    with scorer.live.running():
        return ablate(scorer, scorer.batches, Plan(conditions, AblationSettings(derangements=rounds)))[1]


def agrees(scores: Scores, condition: str, expected: list[torch.Tensor]) -> None:
    for score, own_T in zip(scores, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(score.nll[condition][0]).float(), own_T, **CLOSE)


DOORS = ["best", "gate", "pixels"]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_losses_are_those_of_the_models_own_forward_with_the_own_and_with_the_wrong_picture(
    saved: Saved, name: str, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load(saved, name)
    kinds: dict[str, Any] = {"best": opening.feature_doors(model), "gate": [GateDoor], "pixels": []}
    monkeypatch.setattr(opening, "feature_doors", lambda _: kinds[door])
    pictures = [[picture(row)] for row in range(4)]
    batch = collate(processor, pictures)
    scorer = open_live(model, [batch], processor)
    official = "mm_encoder_outputs" in parameters_of(model)
    expected = {"best": OfficialDoor if official else GateDoor, "gate": GateDoor, "pixels": PixelDoor}
    assert type(scorer.door) is expected[door]
    scores, answer_BT = scored(scorer), scorer.sources[0].answers.answer_BT
    agrees(scores, "correct", own_losses(model.eval(), batch, answer_BT))
    wrong = collate(processor, [pictures[score.donors[0]] for score in scores])
    agrees(scores, "shuffled", own_losses(model, {**wrong, "input_ids": batch["input_ids"]}, answer_BT))


def test_donors_of_the_own_grid_come_first_and_others_are_resampled_and_counted(saved: Saved) -> None:
    model, processor = load(saved, "qwen3_vl")
    sizes = [(36, 30), (36, 30), (36, 30), (20, 44)]
    batch = collate(processor, [[picture(row, *size)] for row, size in enumerate(sizes)])
    scorer = open_live(model, [batch], processor)
    with scorer.live.running():
        ablation, scores = ablate(
            scorer, scorer.batches, Plan(("correct", "shuffled"), AblationSettings(derangements=1))
        )
    (found,) = [remark for remark in ablation.remarks if remark.code == "donors-resampled"]
    assert (found.figures, len(scores)) == ({"resampled": 2, "donors": 4}, 4)
    agrees(scores, "correct", own_losses(model.eval(), batch, scorer.sources[0].answers.answer_BT))


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_several_images_and_of_none_have_the_losses_of_the_own_forward(saved: Saved, side: str) -> None:
    model, processor = load(saved, "qwen2_5_vl")
    pictures = [[picture(0), picture(1, 20, 44)], [], [picture(2)], [picture(3), picture(4)], [picture(5)]]
    batch = collate(processor, pictures, side)
    scorer = open_live(model, [batch], processor)
    scores = scored(scorer)
    answer_BT = scorer.sources[0].answers.answer_BT
    own = own_losses(model.eval(), batch, answer_BT)
    assert ([score.row for score in scores], scorer.text_rows) == ([0, 2, 3, 4], 1)
    agrees(scores, "correct", [own[score.row] for score in scores])
    donors = {score.row: scores[score.donors[0]].row for score in scores}
    assert donors[2] == 4 and donors[4] == 2
    wrong = [pictures[donors[row]] if row in (2, 4) else shown for row, shown in enumerate(pictures)]
    swapped = own_losses(model, {**collate(processor, wrong, side), "input_ids": batch["input_ids"]}, answer_BT)
    for score in scores:
        if score.row in (2, 4):
            torch.testing.assert_close(torch.from_numpy(score.nll["shuffled"][0]).float(), swapped[score.row], **CLOSE)
