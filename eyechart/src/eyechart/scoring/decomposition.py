"""Splits the gaps of `zero` and `shuffled` into information, shock and misdirection, using a trained blind prompt.

The *gap* of a condition is its loss minus the loss with the correct picture. The *blind prompt* is a constant prompt,
trained without any picture, that takes the picture's place.

    information  = blind - correct      what the picture contributes beyond the best constant prompt
    shock        = zero - blind         the cost of zeros that is only due to the model never having seen zeros
    misdirection = shuffled - blind     how much more a wrong picture costs than the best constant prompt

All parts are in nats per label token, so that gap(zero) = information + shock and gap(shuffled) = information +
misdirection. Each part is a difference paired by caption. Its standard error comes from `statistics.estimate`: it is
clustered by image, and dyadic if there are donors (samples that provide wrong pictures). If the blind prompt is
under-trained, information is too large and the other two parts are too small.

Dimension suffixes: S samples, R derangements, Q visual tokens per image, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from eyechart.results import Decomposition, Estimated
from eyechart.scoring.conditions import RIVALS
from eyechart.seam import IntArray
from eyechart.verdict import statistics
from eyechart.verdict.pair_statistics import as_result
from eyechart.verdict.statistics import Estimate, FloatArray


@dataclass(frozen=True)
class Blind:
    """A trained blind prompt, and how it was trained."""

    prompt_QE: Tensor
    captions: int
    """The number of training captions that it was trained on, including repeats."""
    learning_rate: float
    """The learning rate, chosen by the loss on training captions that were held out for this purpose."""
    still_falling: bool
    """Whether the prompt's loss on held-out training captions was still falling at the end of its training budget."""


def decompose(
    sums: Mapping[str, FloatArray],
    tokens_S: IntArray,
    clusters_S: IntArray,
    donors_SR: IntArray,
    blind: Blind | None,
) -> Decomposition | None:
    """Split the gaps of `zero` and `shuffled` into their parts.

    Args:
        sums: the summed NLL [S,R] of each condition whose losses are all finite, in nats per caption; R is 1 for
            conditions without donors.
        tokens_S: the number of label tokens of each caption.
        clusters_S: the index of each sample's image.
        donors_SR: the donor of each sample in each derangement (assignment of donors).
        blind: the blind prompt and how it was trained; None if that is unknown.

    Returns:
        The parts. If the blind prompt is under-trained, all of them are None; a part that needs a condition that was
        not scored is also None. If `correct` or `blind` was not scored, the return value itself is None.
    """
    if "blind" not in sums or "correct" not in sums:
        return None

    def difference(name: str, other: str) -> Estimate | None:
        if name not in sums or other not in sums:
            return None
        table_SR = sums[name] - sums[other]
        return statistics.estimate(table_SR, tokens_S, clusters_S, donors_SR if name == "shuffled" else None)

    rivals = {name: float(np.sum(sums[name])) for name in RIVALS if name in sums}
    best = min(rivals, key=lambda name: rivals[name], default=None)
    deficit = _estimated(difference("blind", best)) if best else None
    nothing = Estimated(value=None)
    found = Decomposition(
        information=nothing,
        shock=nothing,
        misdirection=nothing,
        blind_rival=best,
        blind_deficit=deficit,
        blind_captions=blind.captions if blind else None,
        blind_learning_rate=blind.learning_rate if blind else None,
        blind_still_falling=blind.still_falling if blind else None,
    )
    if found.blind_under_trained:
        return found
    parts = {"information": ("blind", "correct"), "shock": ("zero", "blind"), "misdirection": ("shuffled", "blind")}
    return found.model_copy(update={name: _estimated(difference(*pair)) for name, pair in parts.items()})


def _estimated(found: Estimate | None) -> Estimated:
    return Estimated(value=None) if found is None else as_result(found)
