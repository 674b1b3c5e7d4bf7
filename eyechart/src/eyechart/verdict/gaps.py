"""Questions about the gaps of check 1, answered from their standings.

A gap is the loss under a condition minus the loss with the right image. Its standing says whether the gap exceeds its
margin. This module does not use confidence bounds, because only `standing` decides standings.
"""

from __future__ import annotations

from collections.abc import Mapping

from eyechart.results import Condition
from eyechart.verdict.standing import unmoved


def costs(condition: Condition | None) -> bool:
    """Return whether the gap is above 0 with 99% confidence; it may still be below its margin."""
    return condition is not None and condition.above_zero


def ruled_out(condition: Condition | None) -> bool:
    """Return whether a gap above the margin is ruled out."""
    return condition is not None and condition.standing == "ruled out"


def helps(condition: Condition | None) -> bool:
    """Return whether the condition is better than the right image.

    This is the case if the gap is ruled out and its estimate is below 0 by more than rounding.
    """
    return ruled_out(condition) and condition is not None and (condition.gap or 0.0) < 0 and not unchanged(condition)


def harmful(conditions: Mapping[str, Condition]) -> bool:
    """Return whether the right picture is worse than no picture."""
    return helps(conditions.get("no-image"))


def costs_nothing(condition: Condition) -> bool:
    """Return whether the gap is ruled out and is not shown to be above 0."""
    return ruled_out(condition) and not costs(condition)


def unchanged(condition: Condition) -> bool:
    """Return whether the losses under the condition differ only by rounding from those with the right image."""
    return unmoved(condition.gap, condition.se or 0.0)
