"""One sentence per figure of report.html: what a reader should see in it. Sentences follow the figures' bounds."""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.reporting.conclusions import ablation_conclusion, coverage_conclusion
from eyechart.reporting.wording import between, percent, plain, signed
from eyechart.results import (
    Ablation,
    Condition,
    Coverage,
    Decile,
    Decomposition,
    Internals,
    Matching,
    Results,
    Training,
)

GATES = ("shuffled", "zero", "noise")


def met(condition: Condition | None) -> bool:
    """Whether a gate's 99% lower bound lies above its margin."""
    return (
        condition is not None
        and condition.lower99 is not None
        and condition.margin is not None
        and condition.lower99 > condition.margin
    )


def headline(results: Results) -> str:
    """The verdict in one sentence. It follows the verdict, never the figures."""
    ablation, coverage = results.ablation, results.coverage
    if ablation is None:
        return f"{ablation_conclusion(None)} Check 2: {coverage_conclusion(coverage)}"
    if ablation.verdict == "FAIL":
        return "This connector is not shown to carry the picture: do not rely on it."
    if ablation.verdict == "INCONCLUSIVE":
        more = f"; about {ablation.needed_samples:,} samples would decide" if ablation.needed_samples else ""
        return f"Undecided: this run neither shows nor rules out that the picture is used{more}."
    if results.verdict != "PASS":
        return f"The picture is used, but check 2 does not pass: {coverage_conclusion(coverage)}"
    return "The connector carries the picture: a wrong picture, zeros and noise each raise the loss."


def pattern(ablation: Ablation | None) -> str:
    """What tells a connector that sees from one that has only learnt how captions sound; else the first reason."""
    if ablation is None:
        return ""
    shuffled, zero, noise = (ablation.conditions.get(name) for name in GATES)
    if shuffled is None or zero is None or noise is None or shuffled.gap is None or shuffled.margin is None:
        return _sentence(ablation.reasons[0]) if ablation.reasons else ""
    size = f"{signed(shuffled.gap)} nats per token"
    blind = [name for name, condition in (("zeros", zero), ("noise", noise)) if met(condition)]
    if met(shuffled):
        both = "" if len(blind) == 2 else " Yet zeros or noise do not clearly cost anything: see the reasons."
        return (
            f"It matters which picture it is: another sample's picture costs {size}, which takes a connector that "
            f"carries what is in the picture.{both}"
        )
    if blind and _ruled_out(shuffled):
        raised = f"{' and '.join(blind).capitalize()} in place of the picture raise{'s' if blind == ['noise'] else ''}"
        if shuffled.lower99 is not None and shuffled.lower99 > 0:
            return (
                f"{raised} the loss, another sample's picture hardly does ({size}, above 0 and below the margin "
                f"{shuffled.margin:g}): the visual tokens serve mostly as a prompt that fits every picture."
            )
        return (
            f"{raised} the loss, another sample's picture does not ({size}, margin {shuffled.margin:g}): the visual "
            "tokens serve as a prompt that fits every picture. What was learnt is how captions sound, not what the "
            "pictures show."
        )
    if blind:
        return f"Whether it matters which picture it is, is not settled: another sample's picture costs {size}."
    if all(_ruled_out(condition) for condition in (shuffled, zero, noise)):
        return f"Neither another picture ({size}) nor zeros nor noise cost anything: the pictures are not read."
    return (
        f"Another sample's picture costs {size}{between(shuffled.ci95)}: nothing is settled, neither for it nor for "
        "zeros and noise."
    )


def _ruled_out(condition: Condition) -> bool:
    """Whether a gate's gap surely does not exceed its margin."""
    if condition.gap is None or condition.margin is None:
        return False
    return (condition.gap if condition.ci95 is None else condition.ci95[1]) <= condition.margin


def losses(ablation: Ablation) -> str:
    """The order of the conditions."""
    return f"From lowest to highest: {', '.join(ablation.order)}. {_sentence(ablation.order_reading)}"


def sample_gaps(gaps: Sequence[float], total: int) -> str:
    """How many samples go which way, and how far apart the ends are."""
    better = sum(gap > 0 for gap in gaps)
    shown = "" if len(gaps) == total else f" An even choice of {len(gaps):,} out of {total:,} samples is shown."
    return (
        f"{better:,} of {len(gaps):,} captions are likelier with their own picture than with wrong ones; the gaps go "
        f"from {signed(min(gaps))} to {signed(max(gaps))} nats per token.{shown}"
    )


def training_loss(training: Training) -> str:
    """Where the loss went."""
    if not training.curve:
        return "No loss was logged."
    first, last = training.curve[0], training.curve[-1]
    held_out = "" if last.eval is None else f", held out {plain(last.eval)}"
    return (
        f"Training loss {plain(first.train)} in the first epoch, {plain(last.train)} in the last{held_out}. "
        "That it falls does not show that pictures are read."
    )


def coverage(counted: Coverage) -> str:
    """Check 2."""
    return (
        f"{plain(counted.truncated_pct)}% of {counted.samples:,} samples are cut at max_seq_len {counted.max_seq_len}; "
        f"{counted.smallest_max_seq_len} would do. {coverage_conclusion(counted)}"
    )


def matching(found: Matching) -> str:
    """R@1 beside chance."""
    if found.r_at_1.value is None:
        return "R@1 could not be measured."
    ends = found.r_at_1.ci95
    interval = f" (95% interval {percent(ends[0])} to {percent(ends[1])})" if ends else ""
    chance = 1 / found.k
    if ends and ends[0] <= chance <= ends[1]:
        verdict = "no better than chance"
    else:
        verdict = "better than chance" if found.r_at_1.value > chance else "worse than chance"
    return (
        f"Among {found.k} images {percent(found.r_at_1.value)} of the captions prefer their own{interval}; "
        f"chance is {percent(chance)}: {verdict}."
    )


def deciles(groups: Sequence[Decile]) -> str:
    """The two ends."""
    far, near = groups[0].gap, groups[-1].gap
    if far.value is None or near.value is None:
        return "Not every group could be measured."
    return (
        f"The most unlike tenth of wrong pictures costs {signed(far.value)}{between(far.ci95)}, the most alike "
        f"{signed(near.value)}{between(near.ci95)} nats per token."
    )


def decomposition(split: Decomposition) -> str:
    """The split in words."""
    if split.sentences:
        return " ".join(map(_sentence, split.sentences))
    if split.blind_under_trained:
        return "The blind prompt is under-trained (an untrained stand-in does better), so there is no split."
    return "What the gaps of zero and of shuffled are made of."


def internals(inside: Internals) -> str:
    """Collapse by stage."""
    stages = ", ".join(f"{stage} {value:.2f}" for stage, value in inside.variance_share.items())
    return f"Share of the variance that lies between images, by stage: {stages}."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
