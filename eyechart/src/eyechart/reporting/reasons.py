"""Writes the reasons of a verdict as sentences: one function per reason code, from the figures in the results.

A *gate* is a condition (a replacement of the picture) that decides the verdict: its *gap*, the increase of the loss,
must exceed a margin. The *standing* of a gate is the result of this test: `costs` (above), `ruled out` (not above) or
`open`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from eyechart.reporting.wording import number
from eyechart.results import Ablation, Coverage, Reason, ReasonCode, Standing

_MET: dict[Standing, str] = {"costs": "met", "ruled out": "not met", "open": "open"}
"""The word that describes a gate in a sentence, by the standing of the gate."""


def reasons_of(check: Ablation | Coverage) -> Iterator[tuple[Reason, str]]:
    """Yield each reason of a check together with its sentence.

    The sentence has no full stop. The sentence of a warning begins with `Warning:`.
    """
    for reason in check.reasons:
        if isinstance(check, Ablation):
            sentence = _OF_ABLATION[reason.code](reason, check)
        else:
            sentence = _OF_COVERAGE[reason.code](reason, check)
        yield reason, f"Warning: {sentence}" if reason.effect == "warns" else sentence


def counted(by_reason: dict[str, int]) -> str:
    """Return the count of each reason as one string, such as `2 caption blank, 3 image missing`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(by_reason.items()))


def _gap(reason: Reason, ablation: Ablation) -> str:
    condition = ablation.conditions[reason.about]
    se = "" if condition.se is None else f" +- {condition.se:.4f}"
    return f"gap({reason.about}) {condition.gap:+.4f}{se} nats/token"


def _costs(reason: Reason, ablation: Ablation) -> str:
    condition = ablation.conditions[reason.about]
    return (
        f"{_gap(reason, ablation)}: its 99% lower bound {condition.lower99:+.4f} is above the margin "
        f"{condition.margin:g}"
    )


def _ruled_out(reason: Reason, ablation: Ablation) -> str:
    condition = ablation.conditions[reason.about]
    return (
        f"{_gap(reason, ablation)}: its upper bound {condition.upper:+.4f} is not above the margin {condition.margin:g}"
    )


def _unmoved(reason: Reason, _: Ablation) -> str:
    unused = "the content of the picture is" if reason.about == "shuffled" else "the visual tokens are"
    return f"gap({reason.about}) is exactly 0: the change has no effect on any loss, so {unused} not used"


def _open(reason: Reason, ablation: Ablation) -> str:
    condition = ablation.conditions[reason.about]
    between = f"the margin {condition.margin:g} lies between its bounds {condition.lower99:+.4f} and "
    on_margin = "" if condition.needed_samples else "; the gap equals its margin, so more samples do not decide it"
    return f"{_gap(reason, ablation)}: {between}{condition.upper:+.4f}{on_margin}"


def _one_image(reason: Reason, ablation: Ablation) -> str:
    figures = reason.figures
    return (
        f"{_gap(reason, ablation)} has no standard error: {number(figures['samples'], 'sample')} with "
        f"{number(figures['images'], 'distinct image')}, and at least 2 are needed"
    )


def _not_finite(reason: Reason, _: Ablation) -> str:
    return f"loss({reason.about}) is not finite for at least one label token"


def _nothing_scored(*_: object) -> str:
    return "No sample could be scored, so there is no evidence in either direction"


def _gates_not_scored(reason: Reason, _: Ablation) -> str:
    gates = reason.figures["gates"]
    one = len(gates) == 1
    return (
        f"The {'gate' if one else 'gates'} {', '.join(gates)} {'was' if one else 'were'} not scored, and a PASS needs "
        "all of them; use --conditions runbook or standard"
    )


def _too_few_donors(reason: Reason, _: Ablation) -> str:
    f = reason.figures
    exist = f"were found (among {f['searched']} random donors for each sample)" if f["searched"] else "exist"
    return (
        f"Only {f['found']} of {f['requested']} disjoint sets of wrong pictures {exist} for "
        f"{number(f['samples'], 'sample')}: a "
        f"donor must differ in image and caption, and {f['same_image']} of them share the most common image, "
        f"{f['same_caption']} the most common caption; score more, or more varied, samples"
    )


def _samples_not_scored(reason: Reason, _: Ablation) -> str:
    by_reason = reason.figures["by_reason"]
    return (
        f"{number(sum(by_reason.values()), 'sample')} could not be scored ({counted(by_reason)}), and a PASS needs "
        "every one; fix these rows or remove them from the data file"
    )


def _fewer(reason: Reason, ablation: Ablation) -> str:
    f, available = reason.figures, ablation.available
    why = []
    if available is not None and available < f["requested"]:
        why.append(f"there {'is' if available == 1 else 'are'} only {available:,}")
    if f["unscored"]:
        why.append(f"{f['unscored']:,} could not be scored")
    told = f": {' and '.join(why)}" if why else ""
    return f"{f['requested']:,} samples were requested and {f['scored']:,} scored{told}"


def _one_image_matters(reason: Reason, _: Ablation) -> str:
    f = reason.figures
    what = "carries" if reason.code == "one-image-carries" else "decides"
    moved = f["standing"] != f["standing_without"]
    then = f", and the gate would be {_MET[f['standing_without']]} instead of {_MET[f['standing']]}" if moved else ""
    return (
        f"One image {what} gap({reason.about}): if the image of row {f['row']} ({f['image']}) is left out, both as a "
        f"right and as a wrong picture, the gap is {f['gap_without']:+.4f} instead of {f['gap']:+.4f} nats/token"
        f"{then}; look at that image, and score more samples"
    )


def _truncated(reason: Reason, coverage: Coverage) -> str:
    fails = reason.effect == "fails"
    limit = f"the {reason.figures['limit']:g}% allowed {'for a PASS' if fails else 'without a warning'}"
    return (
        f"{coverage.truncated_pct:.2f}% of {coverage.samples:,} samples ({coverage.truncated:,}) are truncated, more "
        f"than {limit}; the end of their caption and its EOS are lost"
    )


def _unlabelled(reason: Reason, coverage: Coverage) -> str:
    told = (
        f"{coverage.zero_label_pct:.2f}% of {coverage.samples:,} samples ({coverage.zero_label:,}) have no label token"
    )
    over = f", more than the {reason.figures['limit']:g}% allowed" if reason.effect == "fails" else ""
    return f"{told}{over}: nothing is learnt from them"


def _image_cut(_: Reason, coverage: Coverage) -> str:
    return f"max_seq_len cuts the image block of {number(coverage.image_cut, 'sample')}: part of the picture is lost"


def _nothing_counted(*_: object) -> str:
    return "No usable sample was found, so there is nothing to judge; see the rejected rows or the split"


def _raise(reason: Reason, coverage: Coverage) -> str:
    smallest, now, wrapper = coverage.smallest_max_seq_len, coverage.max_seq_len, coverage.wrapper_tokens
    told = f"To truncate at most {reason.figures['allowed']:g}%, raise data.max_seq_len from {now} to {smallest}"
    block, excess = coverage.image_block_tokens, smallest - now
    if wrapper >= excess:
        return (
            f"{told}, or shorten prompt.template by {excess} of the {wrapper:.1f} tokens that the prompt around the "
            f"image block ({block}) takes on average"
        )
    return (
        f"{told}; the prompt around the image block ({block}) takes {wrapper:.1f} tokens on average, so shortening it "
        f"alone cannot save the {excess} tokens needed"
    )


def _rejected(_: Reason, coverage: Coverage) -> str:
    return f"Rows that could not be used, not included in these figures: {counted(coverage.rejected)}"


def _within(_: Reason, coverage: Coverage) -> str:
    lost = "; the end of the truncated captions and their EOS are lost" if coverage.truncated else ""
    return (
        f"{coverage.truncated_pct:.2f}% of {coverage.samples:,} samples truncated at max_seq_len "
        f"{coverage.max_seq_len}, {coverage.zero_label_pct:.2f}% without label tokens{lost}"
    )


_OF_ABLATION: dict[ReasonCode, Callable[[Reason, Ablation], str]] = {
    "gap-costs": _costs,
    "gap-ruled-out": _ruled_out,
    "gap-unmoved": _unmoved,
    "gap-open": _open,
    "one-distinct-image": _one_image,
    "not-finite": _not_finite,
    "nothing-scored": _nothing_scored,
    "gates-not-scored": _gates_not_scored,
    "too-few-donors": _too_few_donors,
    "samples-not-scored": _samples_not_scored,
    "fewer-than-requested": _fewer,
    "one-image-carries": _one_image_matters,
    "one-image-decides": _one_image_matters,
}
_OF_COVERAGE: dict[ReasonCode, Callable[[Reason, Coverage], str]] = {
    "truncated-too-many": _truncated,
    "truncated-some": _truncated,
    "unlabelled-too-many": _unlabelled,
    "unlabelled-some": _unlabelled,
    "image-cut": _image_cut,
    "nothing-counted": _nothing_counted,
    "raise-max-seq-len": _raise,
    "rows-rejected": _rejected,
    "within-limits": _within,
}
