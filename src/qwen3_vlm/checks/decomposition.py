"""What the gaps are made of: information, shock and misdirection, split by a trained blind prompt.

    information  = blind - correct      what the picture tells beyond the best constant prompt
    shock        = zero - blind         what zeros cost only because the model never saw zeros
    misdirection = shuffled - blind     what a wrong picture costs beyond no picture

in nats per label token, so that gap(zero) = information + shock and gap(shuffled) = information + misdirection. Each is
paired per caption and has the standard error of `statistics.estimate`: clustered by image, and dyadic where donors take
part. A blind prompt that is not trained well enough makes information too large and the other two too small.

Dimension suffixes: S samples, R derangements, Q visual tokens per image, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from qwen3_vlm.batch import IntArray
from qwen3_vlm.checks import statistics
from qwen3_vlm.checks.statistics import Estimate, FloatArray
from qwen3_vlm.results import Decomposition, Estimated

_WITHOUT_PICTURE = ("zero", "no-image", "mean-token")
"""What a constant prompt can imitate or nearly so: trained well, it is no worse than the best of them."""


@dataclass(frozen=True)
class Blind:
    """A trained blind prompt, and how it was trained."""

    prompt_QE: Tensor
    captions: int
    """Training captions it has seen, repeats counted."""
    learning_rate: float
    """Chosen on training captions held aside."""
    still_falling: bool
    """Whether its loss on training captions held aside was still falling when its budget ended."""


def decompose(
    sums: Mapping[str, FloatArray],
    tokens_S: IntArray,
    clusters_S: IntArray,
    donors_SR: IntArray,
    blind: Blind | None,
) -> Decomposition | None:
    """Split the gaps.

    Args:
        sums: summed NLL [S,R] per condition, nats per caption; R is 1 without donors. Only conditions whose losses
            are all finite.
        tokens_S: label tokens per caption.
        clusters_S: number of each sample's image.
        donors_SR: donor of each sample in each derangement.
        blind: how the blind prompt was trained, if that is known.

    Returns:
        The split; its figures are None where the blind prompt is under-trained, one of them where its condition was
        not scored. None without `correct` and `blind`.
    """
    if "blind" not in sums or "correct" not in sums:
        return None

    def difference(name: str, other: str) -> Estimate | None:
        if name not in sums or other not in sums:
            return None
        table_SR = sums[name] - sums[other]
        return statistics.estimate(table_SR, tokens_S, clusters_S, donors_SR if name == "shuffled" else None)

    nothing = Estimated(value=None)
    rivals = {name: float(np.sum(sums[name])) for name in _WITHOUT_PICTURE if name in sums}
    if rivals:
        best = min(rivals, key=lambda name: rivals[name])
        behind = difference("blind", best)
        assert behind is not None
        lower = behind.interval(0.95)
        if behind.gap > 0 and (lower is None or lower[0] > 0):
            sentence = (
                f"no split: the blind prompt is under-trained, {behind.gap:.3f} nats/token worse than {best}, and the "
                "best constant prompt cannot be; raise ablation.blind_captions"
            )
            return Decomposition(
                information=nothing,
                shock=nothing,
                misdirection=nothing,
                blind_under_trained=True,
                **_training(blind),
                sentences=[sentence],
            )
    information, shock = difference("blind", "correct"), difference("zero", "blind")
    misdirection = difference("shuffled", "blind")
    assert information is not None
    return Decomposition(
        information=_estimated(information),
        shock=_estimated(shock) if shock else nothing,
        misdirection=_estimated(misdirection) if misdirection else nothing,
        **_training(blind),
        sentences=_sentences(information, shock, misdirection, blind),
    )


def _training(blind: Blind | None) -> dict[str, Any]:
    if blind is None:
        return {}
    return {
        "blind_captions": blind.captions,
        "blind_learning_rate": blind.learning_rate,
        "blind_still_falling": blind.still_falling,
    }


def _estimated(found: Estimate) -> Estimated:
    return Estimated(value=found.gap, se=found.se, ci95=found.interval(0.95))


def _sentences(
    information: Estimate, shock: Estimate | None, misdirection: Estimate | None, blind: Blind | None
) -> list[str]:
    interval = information.interval(0.95)
    told = []
    if interval is None or interval[0] <= 0:
        shown = "" if interval is None else f" (95% interval {interval[0]:+.3f} to {interval[1]:+.3f})"
        told.append(
            f"no information is shown: the pictures tell {information.gap:+.3f} nats/token beyond the best constant "
            f"prompt{shown}"
        )
    for name, rest, word in (("zero", shock, "shock"), ("a wrong picture", misdirection, "misdirection")):
        if rest is not None:
            # The sum of the rounded parts, so that the sentence adds up.
            parts = round(information.gap, 2), round(rest.gap, 2)
            told.append(
                f"of the {sum(parts):.2f} nats/token by which {name} is worse, {parts[0]:.2f} is information and "
                f"{parts[1]:.2f} {word}"
            )
    if blind is not None and blind.still_falling:
        told.append(
            f"the blind prompt's loss was still falling when its budget of {blind.captions:,} captions ended: "
            "information may be smaller, the rest larger; raise ablation.blind_captions"
        )
    return told
