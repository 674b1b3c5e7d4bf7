"""Scores of live models of several families on batches of a collator, against the models' own forward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

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
