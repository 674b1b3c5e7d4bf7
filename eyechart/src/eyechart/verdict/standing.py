"""The standing of one claim: `costs`, `ruled out` or `open`. Only this module decides it.

A claim says that a figure exceeds its margin. With a one-sided lower and a one-sided upper confidence bound:

    costs       the lower bound is above the margin
    ruled out   the upper bound is at or below the margin
    open        neither, or there are no bounds

Levels: 99% for both bounds, except for the gates of check 1. One ruled-out gate is enough for a FAIL, so the upper
bounds of all gates share an error of 1%: each has the confidence 1 - 0.01/(number of gates) (Bonferroni). A difference
that rounding explains does not count as a difference: it is ruled out at any margin of 0 or more.

Verdict, findings, looks, advice on sample size, pages and exit codes read the standing that is stored in the results.
"""

from __future__ import annotations

from dataclasses import dataclass

from eyechart.results import Standing
from eyechart.verdict.statistics import Estimate

LEVEL = 0.99
"""One-sided confidence of both bounds."""
SHARED_ERROR = 0.01
"""Total error probability shared by several claims of which a single one is enough for a decision."""
ROUNDING = 1e-7
"""If a gap and its standard error are both below this, in nats per token, they count as no difference."""


@dataclass(frozen=True)
class Stand:
    """A standing with the bounds from which it follows."""

    standing: Standing
    margin: float
    lower: float | None
    """Lower bound, at `LEVEL` unless another level was requested."""
    upper: float | None
    upper_level: float
    above_zero: bool
    """Whether the lower bound is above 0, whatever the margin is."""


def stand(lower: float | None, upper: float | None, margin: float) -> Standing:
    """Return the standing of a claim, from its bounds, which have the unit of the margin."""
    if lower is None or upper is None:
        return "open"
    return "costs" if lower > margin else "ruled out" if upper <= margin else "open"


def stand_gap(estimate: Estimate, margin: float = 0.0, upper_level: float = LEVEL, lower_level: float = LEVEL) -> Stand:
    """Return the standing of the claim "this gap exceeds its margin".

    Args:
        estimate: the gap, in nats per label token.
        margin: the value that the gap must exceed.
        upper_level: one-sided confidence of the upper bound; `shared_level` if one of several claims is enough.
        lower_level: one-sided confidence of the lower bound.
    """
    lower, upper = estimate.lower(lower_level), estimate.upper(upper_level)
    standing = stand(lower, upper, margin)
    none = unmoved(estimate.gap, estimate.se)
    if none and margin >= 0:
        standing = "ruled out"
    return Stand(standing, margin, lower, upper, upper_level, lower is not None and lower > 0 and not none)


def unmoved(gap: float | None, se: float | None) -> bool:
    """Return whether a difference is only rounding; False without a standard error (one image)."""
    return gap is not None and se is not None and abs(gap) < ROUNDING and se < ROUNDING


def shared_level(claims: int) -> float:
    """Return the level of each of several bounds, so that their total error is at most `SHARED_ERROR` (Bonferroni)."""
    return 1 - SHARED_ERROR / max(1, claims)
