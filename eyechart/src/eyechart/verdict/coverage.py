"""Check 2: judges, from the counts of the collator, whether too many captions are truncated at max_seq_len.

The samples are counted in `seam.CollateStats`. This module decides the verdict and provides the figures that are needed
for a fix: the smallest sufficient max_seq_len, and the number of prompt tokens around the image block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from eyechart.results import Coverage, Reason, ReasonCode, Verdict
from eyechart.seam import CollateStats
from eyechart.settings import CoverageSettings


@dataclass(frozen=True)
class Counted:
    """The counts of the collator for one side of the split (training or held-out)."""

    source: Literal["training", "audit", "score"]
    """What produced the counts: training, an audit without training, or scoring."""
    stats: CollateStats
    """Counts over all usable samples."""
    max_seq_len: int
    """Maximum number of tokens of a sample; longer samples were truncated to this length."""
    block_tokens: int
    """Number of tokens in one image block."""
    wrapper_tokens: float
    """Average number of prompt tokens outside the image block."""
    rejected: Mapping[str, int]
    """Number of unusable rows by reason. They are only reported here; `data.max_rejected` decides whether a run
    continues."""
    image_cut: int
    """Number of samples whose image block is truncated at max_seq_len."""
    split: Literal["train", "eval"] | None = None
    epoch: int | None = None
    """Training epoch in which the samples were counted."""
    images_opened: bool = True


def judge_coverage(counted: Counted, thresholds: CoverageSettings) -> Coverage:
    """Judge one side of the split; the thresholds are in percent.

    Returns:
        FAIL if any limit is exceeded, INCONCLUSIVE if there was nothing to count, otherwise PASS. The result also
        contains the reasons, and the figures that show what to change.
    """
    stats, max_seq_len, block_tokens = counted.stats, counted.max_seq_len, counted.block_tokens
    smallest = smallest_max_seq_len(stats, thresholds.truncated_warn, block_tokens) if stats.samples else max_seq_len
    reasons = _reasons(stats, thresholds, counted.image_cut)
    verdict: Verdict = "FAIL" if any(reason.effect == "fails" for reason in reasons) else "PASS"
    if not stats.samples:
        verdict = "INCONCLUSIVE"
        reasons.append(Reason(code="nothing-counted", effect="undecided"))
    if reasons and stats.samples and smallest > max_seq_len:
        figures = {"allowed": thresholds.truncated_warn}
        reasons.append(Reason(code="raise-max-seq-len", effect="advises", figures=figures))
    if counted.rejected:
        reasons.append(Reason(code="rows-rejected", effect="warns"))
    if not reasons:
        reasons.append(Reason(code="within-limits", effect="passes"))
    return Coverage(
        verdict=verdict,
        reasons=reasons,
        source=counted.source,
        split=counted.split,
        epoch=counted.epoch,
        images_opened=counted.images_opened,
        samples=stats.samples,
        truncated=stats.truncated,
        zero_label=stats.zero_label,
        truncated_pct=stats.truncated_pct,
        zero_label_pct=stats.zero_label_pct,
        avg_label_tokens=stats.avg_label_tokens,
        max_seq_len=max_seq_len,
        smallest_max_seq_len=smallest,
        wrapper_tokens=counted.wrapper_tokens,
        image_block_tokens=block_tokens,
        image_cut=counted.image_cut,
        rejected=dict(counted.rejected),
        lengths=dict(sorted(stats.lengths.items())),
    )


def smallest_max_seq_len(stats: CollateStats, allowed_pct: float, block_tokens: int) -> int:
    """Return the smallest max_seq_len, in tokens, that truncates at most `allowed_pct` percent of the samples.

    Regardless of this percentage, it is long enough for the whole image block and at least one token after it.
    """
    assert stats.samples > 0
    needed = block_tokens + 1
    longer = 0
    for length in sorted(stats.lengths, reverse=True):
        # If max_seq_len were smaller than `length`, these samples would be truncated too.
        longer += stats.lengths[length]
        if 100.0 * longer / stats.samples > allowed_pct:
            return max(needed, length)
    return needed


def _reasons(stats: CollateStats, thresholds: CoverageSettings, image_cut: int) -> list[Reason]:
    """Return the reasons for a failure, followed by those for a warning."""
    found: list[Reason] = []
    if stats.truncated_pct > thresholds.truncated_fail:
        found.append(_over("truncated-too-many", "fails", thresholds.truncated_fail))
    elif stats.truncated_pct > thresholds.truncated_warn:
        found.append(_over("truncated-some", "warns", thresholds.truncated_warn))
    if stats.zero_label_pct > thresholds.zero_label_fail:
        found.append(_over("unlabelled-too-many", "fails", thresholds.zero_label_fail))
    elif stats.zero_label:
        found.append(Reason(code="unlabelled-some", effect="warns"))
    if image_cut:
        found.append(Reason(code="image-cut", effect="fails"))
    return sorted(found, key=lambda reason: reason.effect != "fails")


def _over(code: ReasonCode, effect: Literal["fails", "warns"], limit: float) -> Reason:
    return Reason(code=code, effect=effect, figures={"limit": limit})
