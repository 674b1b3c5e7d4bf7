"""Compares the connector's visual tokens with two kinds of other visual tokens, called rivals.

    fresh      the tokens of newly initialised connectors of the same shape, from the same images
    average    the mean of the connector's own tokens over training images

A language model may have a lower loss with any visual tokens than with the prompt alone. Zeros, noise or a missing
image therefore do not show what a connector has learnt. If the connector's tokens are no better than those of newly
initialised connectors, it has learnt nothing. If its tokens are worse than the average, they are the tokens of wrong
images.

A gap is the loss with the rival's tokens minus the loss with the connector's own tokens, in nats per label token. Gaps
are estimated from paired differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from eyechart.faults.changes import without_images
from eyechart.seam import Batch, ScorerOfBatches, TokenNLL, VisualTokens
from eyechart.verdict.standing import stand_gap, unmoved
from eyechart.verdict.statistics import Estimate, FloatArray, clusters_of, estimate

Rival = Callable[[Batch], VisualTokens]
"""A function that returns the visual tokens that replace the connector's own tokens for a batch."""


@dataclass(frozen=True)
class Rivals:
    """The gaps of the rivals. `fresh` has at least two gaps, so that their spread is known."""

    fresh: tuple[Estimate, ...]
    average: Estimate | None = None

    @property
    def beats_fresh(self) -> bool:
        """Whether the loss with the connector's tokens is lower than with those of every newly initialised connector.

        Two conditions are required: each gap is above 0 with 99% confidence, and the smallest gap is larger than the
        spread of the gaps, their maximum minus their minimum. With the first condition alone, an untrained connector
        compared with six others would be the best in one of seven cases by chance. With both conditions, this happens
        in fewer than one of a hundred cases, if losses are normally distributed.
        """
        gaps = [fresh.gap for fresh in self.fresh]
        return all(stand_gap(fresh).above_zero for fresh in self.fresh) and min(gaps) > max(gaps) - min(gaps)

    @property
    def worse_than_average(self) -> bool:
        """Whether the loss with the connector's tokens is higher than with the average tokens, with 99% confidence."""
        return self.average is not None and beaten_by(self.average)


def beaten_by(gap: Estimate) -> bool:
    """Return whether the rival's loss is lower: the estimated gap is below 0, and a gap above 0 is ruled out."""
    return gap.gap < 0 and not unmoved(gap.gap, gap.se) and stand_gap(gap).standing == "ruled out"


@torch.no_grad()
def rival_gaps(scorer: ScorerOfBatches, batch: Batch, rivals: Sequence[Rival]) -> list[Estimate | None]:
    """Score one batch with the connector's own tokens and with those of each rival.

    Returns:
        For each rival, its gap; None if no sample has label tokens or if a loss is not finite.
    """
    text = without_images(batch)
    own = scorer.nll(text, scorer.encode(batch))
    return [gap_between(own, scorer.nll(text, rival(batch)), batch) for rival in rivals]


def gap_between(own: TokenNLL, other: TokenNLL, batch: Batch) -> Estimate | None:
    """Return the gap between two scores of one batch, with a standard error that is clustered by image.

    Return None if no sample has label tokens or if a loss is not finite.
    """
    scored = [place for place, sample in enumerate(batch.samples) if sample.label_tokens]
    own_S, other_S = (_sums(made, scored) for made in (own, other))
    if not scored or not np.isfinite(own_S).all() or not np.isfinite(other_S).all():
        return None
    tokens_S = np.array([batch.samples[place].label_tokens for place in scored], dtype=np.int64)
    return estimate((other_S - own_S)[:, None], tokens_S, clusters_of([batch.samples[p].image_hash for p in scored]))


def _sums(made: TokenNLL, places: Sequence[int]) -> FloatArray:
    """Return, for each of the samples at `places` in a batch, the sum of its token losses, in nats."""
    nlls = made.per_sample()
    return np.array([float(nlls[place].double().sum()) for place in places])
