"""Decides the standing of a claim: `costs`, `ruled out` or `open`. No other module decides standings.

A claim says that a figure exceeds its margin, for example that a wrong picture raises the loss by more than the margin.
The standing follows from a one-sided lower and a one-sided upper confidence bound on the figure:

    costs       the lower bound is above the margin
    ruled out   the upper bound is at or below the margin
    open        neither, or there are no bounds

Both bounds have a confidence level of 99%, with two exceptions. The gates of check 1 are the conditions that decide its
verdict. A single gate that is ruled out is enough for a FAIL, so the upper bounds of all gates share an error of 1%:
each has the confidence 1 - 0.01/(number of gates) (Bonferroni). The looks of a training run (quick measurements) share
the errors of both bounds in the same way.

A gap that rounding can explain does not count as a difference: it is ruled out at any margin of 0 or more.

The verdict, findings, looks, advice on sample size, pages and exit codes all use the standing stored in the results.
"""

from __future__ import annotations

from dataclasses import dataclass

from eyechart.results import Standing
from eyechart.verdict.statistics import Estimate

LEVEL = 0.99
"""One-sided confidence level of each bound."""
SHARED_ERROR = 0.01
"""Total error probability of several claims, if a single one of them is enough for a decision."""
ROUNDING = 1e-7
"""If a gap and its standard error are both below this, in nats per token, they count as no difference."""


@dataclass(frozen=True)
class Stand:
    """A standing, together with the bounds from which it follows."""

    standing: Standing
    margin: float
    lower: float | None
    """Lower bound, at `LEVEL` unless another level was requested."""
    upper: float | None
    upper_level: float
    above_zero: bool
    """Whether the lower bound is above 0, whatever the margin is."""


def stand(lower: float | None, upper: float | None, margin: float) -> Standing:
    """Return the standing of a claim from its bounds, which have the same unit as the margin."""
    if lower is None or upper is None:
        return "open"
    return "costs" if lower > margin else "ruled out" if upper <= margin else "open"


def stand_gap(estimate: Estimate, margin: float = 0.0, upper_level: float = LEVEL, lower_level: float = LEVEL) -> Stand:
    """Return the standing of the claim "this gap exceeds its margin".

    Args:
        estimate: the gap, in nats per label token.
        margin: the value that the gap must exceed.
        upper_level: one-sided confidence level of the upper bound. If a single one of several claims is enough for a
            decision, use `shared_level`.
        lower_level: one-sided confidence level of the lower bound.
    """
    lower, upper = estimate.lower(lower_level), estimate.upper(upper_level)
    standing = stand(lower, upper, margin)
    none = unmoved(estimate.gap, estimate.se)
    if none and margin >= 0:
        standing = "ruled out"
    return Stand(standing, margin, lower, upper, upper_level, lower is not None and lower > 0 and not none)


def unmoved(gap: float | None, se: float | None) -> bool:
    """Return whether rounding can explain a gap; False if there is no standard error (only one image)."""
    return gap is not None and se is not None and abs(gap) < ROUNDING and se < ROUNDING


def shared_level(claims: int) -> float:
    """Return the level for each of several bounds with a total error of at most `SHARED_ERROR` (Bonferroni)."""
    return 1 - SHARED_ERROR / max(1, claims)
