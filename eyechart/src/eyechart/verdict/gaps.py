"""Combinations of the standings of check 1. Nothing here uses a bound: `standing` has decided."""

from __future__ import annotations

from collections.abc import Mapping

from eyechart.results import Condition
from eyechart.verdict.standing import unmoved


def costs(condition: Condition | None) -> bool:
    """The gap is above 0 with confidence; that of a gate may still be below its margin."""
    return condition is not None and condition.above_zero


def ruled_out(condition: Condition | None) -> bool:
    """The gap does not exceed its margin, with confidence."""
    return condition is not None and condition.standing == "ruled out"


def helps(condition: Condition | None) -> bool:
    """The gap is below its margin with confidence, and its estimate is below 0: this is better than the right image."""
    return ruled_out(condition) and condition is not None and (condition.gap or 0.0) < 0 and not unchanged(condition)


def harmful(conditions: Mapping[str, Condition]) -> bool:
    """Whether the right picture is worse than none, with confidence."""
    return helps(conditions.get("no-image"))


def costs_nothing(condition: Condition) -> bool:
    """The gap does not exceed its margin, with confidence, and is not shown to be above 0."""
    return ruled_out(condition) and not costs(condition)


def unchanged(condition: Condition) -> bool:
    """No loss differs from that of the right image except for rounding."""
    return unmoved(condition.gap, condition.se or 0.0)
