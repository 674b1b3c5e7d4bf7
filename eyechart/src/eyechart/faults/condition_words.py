"""Names of the conditions of check 1 in words, for findings: their messages must be understandable without context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eyechart.results import Condition

_PLAIN = {
    "correct": "the right image",
    "shuffled": "another sample's image",
    "zero": "zeroed visual tokens",
    "noise": "noise in place of the visual tokens",
    "noise-per-dim": "noise with the mean and deviation of each dimension",
    "no-image": "no image positions",
    "mean-token": "the mean of all images' visual tokens",
    "blind": "a trained constant prompt",
    "slot-mix": "visual tokens mixed from many images",
    "grey": "a grey image",
    "blurred": "a blurred image",
}


def listed(conditions: Mapping[str, Condition], names: Sequence[str]) -> str:
    """Return the conditions in words, each with its gap."""
    return ", ".join(f"{_PLAIN.get(name, name)} {conditions[name].gap:+.3f}" for name in names)


def worded(names: Sequence[str], join: str = "and") -> str:
    """Return the conditions in words, as a list inside a sentence."""
    words = [_PLAIN.get(name, name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {join} {words[-1]}"
