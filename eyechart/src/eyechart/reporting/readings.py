"""Writes the sentences that describe the charts of report.html.

This module only describes the charts. Statements about the model come from `reporting.conclusions`.

A *condition* is what the language model receives in place of the picture. Its *gap* is its loss minus the loss with the
correct picture.
"""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.reporting.conclusions import said
from eyechart.reporting.wording import between, capital, percent, plain, signed
from eyechart.results import Ablation, Coverage, Decomposition, Internals, Matching, Results, Standing, Training

GATES = ("shuffled", "zero", "noise")
_READ: dict[Standing, str] = {
    "costs": "shows that the language model reads these captions",
    "ruled out": "shows that the language model does not read these captions",
    "open": "does not decide whether the language model reads these captions",
}


def losses(results: Results, ablation: Ablation) -> str:
    """Return a sentence that lists the conditions from lowest to highest loss, and the conclusion about this order."""
    return f"From lowest to highest: {', '.join(ablation.order)}. {said(results, 'order')}".rstrip()


def unigram(ablation: Ablation) -> str:
    """Return a sentence that compares the model's loss with a unigram predictor's (check 0); empty if not measured."""
    found = ablation.unigram
    if found is None or found.gain.value is None or found.gain.standing is None:
        return ""
    counted = "training captions" if found.source == "training" else "scored captions of other images"
    loss = ablation.conditions[found.condition].loss
    assert loss is not None, "check 0 compares finite losses"
    return (
        f"A predictor that only knows how often each token occurs in {counted} has a loss of {plain(found.loss)} nats "
        f"per token; the model has {plain(loss)} ({found.condition}). The gain of {signed(found.gain.value)}"
        f"{between(found.gain.ci95)} {_READ[found.gain.standing]}."
    )


def sample_gaps(gaps: Sequence[float], total: int) -> str:
    """Return a sentence with the number of samples that have a positive gap, and the smallest and largest gap."""
    better = sum(gap > 0 for gap in gaps)
    shown = "" if len(gaps) == total else f" The figure shows {len(gaps):,} of {total:,} samples, evenly spaced."
    return (
        f"{better:,} of {len(gaps):,} captions are likelier with their own picture than with wrong ones; the gaps "
        f"range from {signed(min(gaps))} to {signed(max(gaps))} nats per token.{shown}"
    )


def training_loss(training: Training) -> str:
    """Return a sentence with the training loss in the first and in the last epoch, and the held-out loss at the end."""
    if not training.curve:
        return "No loss was logged."
    first, last = training.curve[0], training.curve[-1]
    held_out = "" if last.eval is None else f"; the held-out loss at the end was {plain(last.eval)}"
    return (
        f"The training loss was {plain(first.train)} in the first epoch and {plain(last.train)} in the last{held_out}. "
        "A falling loss does not show that the pictures are used."
    )


def coverage(counted: Coverage) -> str:
    """Return a sentence about the share of truncated samples (check 2) and the smallest max_seq_len that is enough.

    The sentence is shown after the conclusion of check 2.
    """
    if not counted.samples:
        return ""
    cut = f"{plain(counted.truncated_pct)}% of {counted.samples:,} samples are truncated; " if counted.truncated else ""
    return capital(f"{cut}a max_seq_len of {counted.smallest_max_seq_len} is enough to stay within the limit.")


def amounts(found: Matching) -> str:
    """Return sentences on how much a caption's own image contributes.

    They state the gain in log-likelihood, and a lower bound on the mutual information of caption and image.
    """
    if found.problem is not None:
        return ""
    sentences, gain, bound = [], found.image_specific_gain, found.infonce
    if gain.value is not None:
        direction = "higher" if gain.value >= 0 else "lower"
        size = plain(abs(gain.value))
        sentences.append(
            f"A caption's log-likelihood is {size} nats {direction} with its own image than with another image"
            f"{between(gain.ci95)}."
        )
    if bound.standing == "costs" and bound.value is not None and bound.lower99 is not None:
        near_maximum = ", close to the maximum for this number of images, so the true value may be much larger"
        ceiling = near_maximum * found.infonce_saturated
        sentences.append(
            f"Caption and image share at least {plain(bound.lower99)} nats of information (estimate "
            f"{plain(bound.value)}{ceiling})."
        )
    if found.hard_r_at_1.value is None:
        sentences.append(
            "The similarity of images was not measured, so there are no figures for the most similar wrong images."
        )
    return " ".join(sentences)


def decomposition(split: Decomposition, ablation: Ablation) -> str:
    """Return the gaps of `zero` and `shuffled` as sums of their parts, in numbers; empty if the gaps were not split."""
    parts = []
    for name, rest, word in (("zero", split.shock, "shock"), ("shuffled", split.misdirection, "misdirection")):
        condition = ablation.conditions.get(name)
        if rest.value is not None and split.information.value is not None and condition is not None:
            assert condition.gap is not None
            parts.append(
                f"gap({name}) {signed(condition.gap)} = information {signed(split.information.value)} + {word} "
                f"{signed(rest.value)}{between(rest.ci95)}"
            )
    return f"In nats per token, {'; '.join(parts)}." if parts else ""


def internals(inside: Internals) -> str:
    """Return a sentence with the share of the variance that is between images, for each stage of the connector."""
    shares = inside.variance_share
    text = ", ".join(f"{name} {percent(shares[name])}" for name in inside.stages if name in shares)
    if not text:
        return "With one visual token per image there is no share of variance between images to report."
    missing = [name for name in inside.stages if name not in shares]
    told = f" ({', '.join(missing)}: one slot, or no variance)" if missing else ""
    return f"Share of the variance that is between images: {text}{told}."


def connector(inside: Internals) -> str:
    """Return sentences about the visual tokens: their scale, their effective rank, and their nearest neighbours."""
    sentences = [
        f"The RMS of the visual tokens is {inside.rms_ratio:.3g} times that of text embeddings.",
        f"The visual tokens of one image span about {inside.effective_rank:.1f} of {inside.effective_rank_of} "
        "possible directions "
        "(effective rank).",
    ]
    if inside.knn_overlap is None:
        sentences.append(f"{inside.images} images are too few to compare neighbours before and after the connector.")
    else:
        among = f"Among the first {inside.compared:,} images, of" if inside.compared < inside.images else "Of"
        sentences.append(
            f"{among} the {inside.neighbours} images most similar to an image before the connector, "
            f"{percent(inside.knn_overlap)} still are after it (unrelated features would give "
            f"{percent(inside.neighbours / (inside.compared - 1))})."
        )
    return " ".join(sentences)
