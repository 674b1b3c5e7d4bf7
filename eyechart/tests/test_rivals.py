"""Rivals: what other visual tokens cost, paired and clustered by image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eyechart.faults.changes import without_images
from eyechart.faults.rivals import Rivals, gap_between, rival_gaps
from eyechart.seam import Batch, TokenNLL, VisualTokens
from eyechart.verdict.statistics import Estimate
from fake_scorers import Healthy, make_batches, make_sample


def one_batch(samples: int = 8) -> Batch:
    return make_batches([make_sample(row, words=3) for row in range(samples)], samples)[0]


def rolled(batch: Batch) -> VisualTokens:
    """Each sample's tokens are those of the next one."""
    return Healthy().encode(batch).map(lambda layer: layer.roll(1, 0))


def test_tokens_of_another_picture_cost_what_the_picture_is_worth() -> None:
    gap, own = rival_gaps(Healthy(), one_batch(), [rolled, Healthy().encode])
    assert gap is not None and gap.gap > 0.1 and gap.samples == gap.clusters == 8
    assert own is not None and own.gap == 0 and not Rivals((own, own)).beats_fresh


def test_losses_that_are_not_finite_cannot_be_compared() -> None:
    batch = one_batch()
    own = Healthy().nll(without_images(batch), Healthy().encode(batch))
    broken = replace(own, nll_N=own.nll_N * float("nan"))
    assert gap_between(own, broken, batch) is None
    empty = TokenNLL(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert gap_between(empty, empty, replace(batch, samples=[])) is None


@pytest.mark.parametrize(
    ("gap", "se", "worse"), [(-0.2, 0.02, True), (-0.2, 0.2, False), (0.2, 0.02, False), (0, 0, False)]
)
def test_tokens_are_worse_than_the_average_only_with_confidence(gap: float, se: float, worse: bool) -> None:
    assert Rivals((), Estimate(gap, se, 64, 64)).worse_than_average == worse
