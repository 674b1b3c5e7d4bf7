"""Check 2: how much of the captions survives max_seq_len, judged from the collator's own counts.

The counting itself is `seam.CollateStats`; here stand the verdict and, where it is not a clean pass, the cure in
numbers: the smallest max_seq_len that would do, and what the prompt around the image block costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eyechart.results import Coverage, Verdict
from eyechart.seam import CollateStats
from eyechart.settings import CoverageSettings

_EOS_LOST = "the truncated ones lost the end of their caption and its EOS"


@dataclass(frozen=True)
class Counted:
    """One split as the collator counted it."""

    source: str
    """Where the counts come from, for people."""
    stats: CollateStats
    """Over all usable samples."""
    max_seq_len: int
    """The limit the samples were cut to, tokens."""
    block_tokens: int
    """Tokens of one image block."""
    wrapper_tokens: float
    """Average tokens of the prompt besides the image block."""
    rejected: Mapping[str, int]
    """Unusable rows by reason. They are reported; `data.max_rejected` decides whether a run goes on."""
    image_cut: int
    """Samples whose image block lost a token to max_seq_len."""


def judge_coverage(counted: Counted, thresholds: CoverageSettings) -> Coverage:
    """Judge one split; thresholds in percent.

    Returns:
        FAIL if any limit is broken, INCONCLUSIVE if there was nothing to count, else PASS; every reason that is not
        clean says what to change.
    """
    stats, max_seq_len, block_tokens = counted.stats, counted.max_seq_len, counted.block_tokens
    wrapper_tokens, source, rejected = counted.wrapper_tokens, counted.source, counted.rejected
    smallest = smallest_max_seq_len(stats, thresholds.truncated_warn, block_tokens) if stats.samples else max_seq_len
    failures, notes = _faults(stats, thresholds, counted.image_cut)
    verdict: Verdict = "FAIL" if failures else "PASS"
    if not stats.samples:
        verdict = "INCONCLUSIVE"
        notes.append(f"no usable sample in {source}: nothing to judge; see the rejected rows or the split")
    reasons = failures + notes
    if reasons and stats.samples and smallest > max_seq_len:
        reasons.append(_cure(smallest, max_seq_len, block_tokens, wrapper_tokens, thresholds.truncated_warn))
    if rejected:
        named = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
        reasons.append(f"warning: rows that could not be used and are in none of these figures: {named}")
    if not reasons:
        reasons.append(
            f"{stats.truncated_pct:.2f}% of {stats.samples} samples truncated at max_seq_len {max_seq_len}, "
            f"{stats.zero_label_pct:.2f}% without label tokens" + (f"; {_EOS_LOST}" if stats.truncated else "")
        )
    return Coverage(
        verdict=verdict,
        reasons=reasons,
        source=source,
        samples=stats.samples,
        truncated_pct=stats.truncated_pct,
        zero_label_pct=stats.zero_label_pct,
        avg_label_tokens=stats.avg_label_tokens,
        max_seq_len=max_seq_len,
        smallest_max_seq_len=smallest,
        wrapper_tokens=wrapper_tokens,
        image_block_tokens=block_tokens,
        rejected=dict(rejected),
        lengths=dict(sorted(stats.lengths.items())),
    )


def smallest_max_seq_len(stats: CollateStats, allowed_pct: float, block_tokens: int) -> int:
    """The smallest limit that truncates at most `allowed_pct` percent of the samples, in tokens.

    It is never so small that it cuts the image block or leaves no token behind it, whatever percentage is allowed.
    """
    assert stats.samples > 0
    needed = block_tokens + 1
    longer = 0
    for length in sorted(stats.lengths, reverse=True):
        # At a limit just below `length`, these samples would be cut as well.
        longer += stats.lengths[length]
        if 100.0 * longer / stats.samples > allowed_pct:
            return max(needed, length)
    return needed


def _faults(stats: CollateStats, thresholds: CoverageSettings, image_cut: int) -> tuple[list[str], list[str]]:
    """Sentences for what fails and for what is only worth a warning."""
    failures, notes = [], []
    truncated = f"{stats.truncated_pct:.2f}% of {stats.samples} samples ({stats.truncated}) are truncated"
    lost = f"; {_EOS_LOST}"
    if stats.truncated_pct > thresholds.truncated_fail:
        failures.append(f"{truncated}, more than the {thresholds.truncated_fail:g}% that fail{lost}")
    elif stats.truncated_pct > thresholds.truncated_warn:
        notes.append(f"warning: {truncated}, more than the {thresholds.truncated_warn:g}% that pass unremarked{lost}")
    unlabelled = f"{stats.zero_label_pct:.2f}% of {stats.samples} samples ({stats.zero_label}) have no label token"
    if stats.zero_label_pct > thresholds.zero_label_fail:
        failures.append(f"{unlabelled}, more than the {thresholds.zero_label_fail:g}% allowed: they teach nothing")
    elif stats.zero_label:
        notes.append(f"warning: {unlabelled}: they teach nothing")
    if image_cut:
        failures.append(
            f"the image block of {image_cut} samples is cut by max_seq_len: they lose a part of the picture"
        )
    return failures, notes


def _cure(smallest: int, max_seq_len: int, block_tokens: int, wrapper_tokens: float, allowed_pct: float) -> str:
    sentence = f"to truncate at most {allowed_pct:g}%, raise data.max_seq_len from {max_seq_len} to {smallest}"
    excess = smallest - max_seq_len
    if wrapper_tokens >= excess:
        return (
            f"{sentence}, or shorten prompt.template by {excess} of the {wrapper_tokens:.1f} tokens that the wrapper "
            f"around the image block ({block_tokens}) costs on average"
        )
    return (
        f"{sentence}; the wrapper around the image block ({block_tokens}) costs {wrapper_tokens:.1f} tokens on "
        f"average, so shortening it alone cannot save the {excess} needed"
    )
