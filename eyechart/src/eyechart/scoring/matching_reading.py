"""What the figures of matching say, in sentences for a reader who has nothing else."""

from __future__ import annotations

import math

from eyechart.results import Estimated, Matching

_SMALL = 0.1
"""Nats below which a figure is told with four decimals."""


def read_matching(found: Matching, wanted_k: int) -> str:
    """Say what was found, and what could not be.

    Args:
        found: the figures.
        wanted_k: images per caption that were asked for.
    """
    sentences = [_recall(found)]
    if found.hard_r_at_1.value is not None:
        sentences.append(_hard(found))
    sentences.append(_gain(found.image_specific_gain))
    if found.infonce.value is not None:
        sentences.append(_information(found))
    sentences += _graded(found)
    if found.hard_r_at_1.value is None:
        sentences.append(
            "How alike the images look was not measured, so there are no hardest and no graded wrong images."
        )
    if found.k < wanted_k:
        sentences.append(
            f"{wanted_k} images per caption were asked for and {found.k} used: some caption has no more wrong images "
            "that differ from its own in content and caption."
        )
    return " ".join(sentences)


def _recall(found: Matching) -> str:
    assert found.r_at_1.value is not None
    share, chance = found.r_at_1.value, 1 / found.k
    interval = found.r_at_1.ci95
    text = (
        f"Among {found.k} images (its own and {found.k - 1} random others) a caption is likeliest with its own in "
        f"{share:.0%} of {found.captions} cases, where guessing would give {chance:.1%}"
    )
    if found.mrr.value is not None:
        guessed = sum(1 / rank for rank in range(1, found.k + 1)) / found.k
        text += f" (mean reciprocal rank {found.mrr.value:.2f}, guessing {guessed:.2f})"
    if interval is None:
        return f"{text}; too few images for an interval."
    if interval[0] > chance:
        return f"{text}: the language model reads the content of the picture."
    if interval[1] < chance:
        return f"{text}: worse than guessing, so captions may belong to other images."
    return f"{text}: not to be told from guessing."


def _hard(found: Matching) -> str:
    share = found.hard_r_at_1.value
    assert share is not None
    verdict = ""
    if _guessing(found.hard_r_at_1, found.k):
        verdict = ": not to be told from guessing, so what is read does not tell similar pictures apart"
    return f"Against the {found.k - 1} images that look most like it, it is {share:.0%}{verdict}."


def _guessing(recall: Estimated, k: int) -> bool:
    return recall.ci95 is not None and recall.ci95[0] <= 1 / k


def _nats(value: float) -> str:
    return f"{value:+.2f}" if abs(value) >= _SMALL else f"{value:+.4f}"


def _gain(gain: Estimated) -> str:
    assert gain.value is not None
    direction = "likelier" if gain.value >= 0 else "less likely"
    interval = f" (95% interval {_nats(gain.ci95[0])} to {_nats(gain.ci95[1])})" if gain.ci95 else ""
    size = _nats(abs(gain.value)).lstrip("+")
    return f"Its own image makes a caption {size} nats {direction} than another image does{interval}."


def _information(found: Matching) -> str:
    value, most = found.infonce.value, math.log(found.k)
    assert value is not None
    if value <= 0 or (found.infonce.ci95 is not None and found.infonce.ci95[0] <= 0):
        return "No information shared by caption and image can be shown this way."
    interval = found.infonce.ci95
    ends = f" (a lower bound, itself known to {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    text = f"Caption and image share about {value:.2f} nats of information or more{ends}"
    if found.infonce_saturated:
        return f"{text}, close to the {most:.2f} that {found.k} images can show: it may be much more."
    return f"{text} (with {found.k} images at most {most:.2f} could be shown)."


def _graded(found: Matching) -> list[str]:
    gaps = [decile.gap for decile in found.deciles]
    if not gaps or gaps[0].value is None or gaps[-1].value is None or gaps[-1].ci95 is None:
        return []
    text = (
        f"The tenth of wrong images that look least like the own one costs {_nats(gaps[0].value)} nats per token, the "
        f"tenth that looks most like it {_nats(gaps[-1].value)}"
    )
    if gaps[-1].ci95[0] > 0 and _guessing(found.hard_r_at_1, found.k):
        return [f"{text}: details count, but too little to find the own image among similar ones."]
    if gaps[-1].ci95[0] > 0:
        return [f"{text}: details count, not only the kind of picture."]
    if gaps[0].ci95 is not None and gaps[0].ci95[0] > 0:
        return [f"{text}: the kind of picture counts, details do not show."]
    return [f"{text}."]
