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

from eyechart.results import Decomposition, Estimated
from eyechart.scoring.conditions import RIVALS
from eyechart.seam import IntArray
from eyechart.verdict import statistics
from eyechart.verdict.statistics import Estimate, FloatArray

_SMALL = 0.1
"""Nats per label token below which a gap is told with four decimals."""


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
    rivals = {name: float(np.sum(sums[name])) for name in RIVALS if name in sums}
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


def _between(found: Estimate, digits: int = 2) -> str:
    """The 95% interval, for a sentence."""
    interval = found.interval(0.95)
    return "" if interval is None else f" ({interval[0]:+.{digits}f} to {interval[1]:+.{digits}f})"


def _sentences(
    information: Estimate, shock: Estimate | None, misdirection: Estimate | None, blind: Blind | None
) -> list[str]:
    interval = information.interval(0.95)
    shown = interval is not None and interval[0] > 0
    told = []
    if not shown:
        told.append(
            f"no information is shown: the pictures tell {information.gap:+.3f}{_between(information, 3)} nats/token "
            "beyond the best constant prompt"
        )
    elif shock is None and misdirection is None:
        told.append(
            f"the pictures tell {information.gap:.2f}{_between(information)} nats/token beyond the best constant prompt"
        )
    for name, rest, word in (("zero", shock, "shock"), ("a wrong picture", misdirection, "misdirection")):
        if rest is None:
            continue
        whole = information.gap + rest.gap
        digits = 2 if abs(whole) >= _SMALL else 4
        if shown:
            # The second part is what the rounded first one leaves, so that the sentence adds up to the gap's figure.
            left = round(whole, digits) - round(information.gap, digits) + 0.0
            told.append(
                f"of the {whole:.{digits}f} nats/token by which {name} is worse, {information.gap:.{digits}f}"
                f"{_between(information, digits)} is information and {left:.{digits}f}{_between(rest, digits)} {word}"
            )
        else:
            told.append(f"the {whole:.{digits}f} nats/token by which {name} is worse are {word} as far as is shown")
    if blind is not None and blind.still_falling:
        told.append(
            f"the blind prompt's loss was still falling when its budget of {blind.captions:,} captions ended: "
            "information may be smaller, the rest larger; raise ablation.blind_captions"
        )
    return told
