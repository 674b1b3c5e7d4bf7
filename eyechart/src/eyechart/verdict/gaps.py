"""What the standings of check 1 say together. Nothing here looks at a bound: `standing` has decided."""

from __future__ import annotations

from collections.abc import Mapping

from eyechart.results import Condition
from eyechart.verdict.standing import unmoved


def costs(condition: Condition | None) -> bool:
    """The gap is surely above 0; that of a gate may still be below its margin."""
    return condition is not None and condition.above_zero


def ruled_out(condition: Condition | None) -> bool:
    """The gap surely does not exceed its margin."""
    return condition is not None and condition.standing == "ruled out"


def helps(condition: Condition | None) -> bool:
    """The gap is surely below its margin and its estimate below 0: this is better than the right image."""
    return ruled_out(condition) and condition is not None and (condition.gap or 0.0) < 0 and not unchanged(condition)


def harmful(conditions: Mapping[str, Condition]) -> bool:
    """Whether the right picture is worse than none, with confidence."""
    return helps(conditions.get("no-image"))


def costs_nothing(condition: Condition) -> bool:
    """The gap surely does not exceed its margin, and is not surely above 0 either."""
    return ruled_out(condition) and not costs(condition)


def unchanged(condition: Condition) -> bool:
    """No loss differs from that of the right image but for rounding."""
    return unmoved(condition.gap, condition.se or 0.0)
