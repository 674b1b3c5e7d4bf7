"""Takes looks (quick measurements) during training in another framework.

A look scores a few rows with their own pictures and with wrong pictures. If the model uses the pictures, the loss is
higher with wrong ones; the difference is the gap.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from eyechart.models.opening import open_live
from eyechart.results import Look
from eyechart.scoring.ablation import ablate
from eyechart.scoring.plan import Plan
from eyechart.scoring.summary import Scores
from eyechart.seam import Batch
from eyechart.settings import AblationSettings
from eyechart.verdict.standing import shared_level, stand_gap
from eyechart.verdict.statistics import Estimate, Pairs, clusters_of

_CONDITIONS = ("correct", "shuffled")
_FEWEST_LOOKS, _MOST_LOOKS = 2, 7
_ROWS_PER_LOOK = 1000
"""Trained rows per look: a look scores 16 rows twice, so that looks take less than 2% of a training of 1,000 steps
(`benchmarks/looks_cost.py`)."""


class Looking:
    """The rows that every look of a training run scores, prepared once before the first look."""

    def __init__(
        self, model: nn.Module, batches: Sequence[Mapping[str, Any]], processor: Any, looks: int, seed: int
    ) -> None:
        """Choose how the image features or the pixels of the model are replaced, and test this choice once.

        Args:
            model: the model that is being trained.
            batches: batches made by the collator of the training.
            processor: the model's processor, or None.
            looks: number of looks planned for the whole training. The allowed error rate of the confidence bounds is
                divided among them, so that it applies to all looks together.
            seed: seed for drawing the wrong pictures.

        Raises:
            ValueError: the batches or the model cannot be scored; the message is one line.
        """
        self._scorer = open_live(model, batches, processor).as_in_training()
        self._batches: list[Batch] = list(self._scorer.batches)
        self._level = shared_level(looks)
        self._settings, self._seed = AblationSettings(derangements=1), seed

    def look(self, step: int) -> Look:
        """Score the rows at one training step, and return the result.

        Raises:
            ValueError: no row can be scored, or a loss is not finite.
        """
        began = time.monotonic()
        with self._scorer.live.running():
            plan = Plan(_CONDITIONS, self._settings, self._seed, vocabulary=self._scorer.describe().vocabulary)
            ablation, scores = ablate(self._scorer, self._batches, plan)
        correct = ablation.conditions["correct"].loss if "correct" in ablation.conditions else None
        if correct is None:
            raise ValueError("a look needs rows with an image and an answer, and finite losses; this one found none")
        wrong = gap_to_shuffled(scores)
        if wrong is None:
            raise ValueError(f"a look needs two rows with other images and other answers, among {len(scores)} rows")
        stood = stand_gap(wrong, self._settings.margin_shuffled, self._level, self._level)
        return Look(
            step=step,
            correct=correct,
            gap_shuffled=wrong.gap,
            se_shuffled=wrong.se,
            shuffled=stood.standing,
            lower_shuffled=stood.lower,
            upper_shuffled=stood.upper,
            seconds=time.monotonic() - began,
        )


def look_steps(looks: str | int, total: int, rows: int) -> list[int]:
    """Return the steps of a training at which to look.

    Args:
        looks: `log`, `off`, or the number of steps between looks.
        total: the last step.
        rows: number of rows trained on over all steps. It limits the number of looks, and so what they cost.

    Returns:
        Steps in increasing order. With `log`, the first is step 1, and each next one is twice the step before.
    """
    if looks == "off" or total < 1:
        return []
    if isinstance(looks, int):
        return list(range(looks, total + 1, looks))
    count = min(max(rows // _ROWS_PER_LOOK, _FEWEST_LOOKS), _MOST_LOOKS)
    return sorted({1, *(math.ceil(total / 2**halvings) for halvings in range(count - 1))})


def gap_to_shuffled(scores: Scores) -> Estimate | None:
    """Return the loss with wrong pictures minus the loss with the rows' own; None if no wrong picture was scored."""
    found = list(scores)
    if not found or "shuffled" not in found[0].nll:
        return None
    tokens_S = np.array([len(score.label_ids_T) for score in found], dtype=np.int64)
    images_S = clusters_of([score.image_hash for score in found])
    own_S = np.array([score.nll["correct"][0].sum() for score in found])
    differences_SR = np.array([[nll_T.sum() for nll_T in score.nll["shuffled"]] for score in found]) - own_S[:, None]
    return Pairs.of(differences_SR, tokens_S, images_S, scores.donors_SR).estimate()
