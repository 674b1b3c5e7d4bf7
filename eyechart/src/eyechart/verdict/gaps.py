"""Conditions of check 1 in words, and what their gaps surely say.

"Costs" means that the 99% lower bound of a gap is above 0, "helps" that its 99% upper bound is below, "nothing" that it
is neither and the upper bound is not above the margin of `shuffled`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eyechart.results import Condition
from eyechart.verdict.verdict import PASS_LEVEL

_ROUNDING = 1e-7
"""A gap and a standard error below this are no difference at all."""
_PLAIN = {
    "correct": "the right image",
    "shuffled": "another sample's image",
    "zero": "zeroed visual tokens",
    "noise": "noise in place of the visual tokens",
    "noise-per-dim": "noise of each dimension's own size",
    "no-image": "no image positions at all",
    "mean-token": "the mean of all images' visual tokens",
    "blind": "a trained constant prompt",
    "slot-mix": "visual tokens mixed from many images",
    "grey": "a grey image",
    "blurred": "a blurred image",
}
"""Conditions in words, for readers who have only the message."""


def costs(condition: Condition) -> bool:
    """The gap is surely above 0."""
    return condition.lower99 is not None and condition.lower99 > 0 and not unchanged(condition)


def helps(condition: Condition) -> bool:
    """The gap is surely below 0."""
    upper = _upper99(condition)
    return upper is not None and upper < 0


def harmful(conditions: Mapping[str, Condition]) -> bool:
    """Whether the right picture is surely worse than none at all."""
    return "no-image" in conditions and helps(conditions["no-image"])


def costs_nothing(condition: Condition) -> bool:
    """The gap is not surely above 0, and surely not above the margin."""
    upper = _upper99(condition)
    return upper is not None and not costs(condition) and upper <= (condition.margin or 0.0)


def unchanged(condition: Condition) -> bool:
    """No loss differs from that of the right image but for rounding."""
    return abs(condition.gap or 0.0) < _ROUNDING and (condition.se or 0.0) < _ROUNDING


def _upper99(condition: Condition) -> float | None:
    """The bound mirrors the lower one: both are gap -+ t(0.99) * SE."""
    assert PASS_LEVEL == 0.99, "`lower99` is the lower bound at this level"
    if condition.gap is None or condition.lower99 is None:
        return None
    return 2 * condition.gap - condition.lower99


def listed(conditions: Mapping[str, Condition], names: Sequence[str]) -> str:
    """Conditions with their gaps, in words."""
    return ", ".join(f"{_PLAIN.get(name, name)} {conditions[name].gap:+.3f}" for name in names)


def worded(names: Sequence[str], join: str = "and") -> str:
    """Conditions in words, as a list in a sentence."""
    words = [_PLAIN.get(name, name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {join} {words[-1]}"
