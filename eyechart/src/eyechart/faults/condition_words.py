"""Descriptions of the conditions of check 1, for messages of findings that must be understandable without context.

A condition is the image input with which captions are scored, such as the right image or another sample's image.
"""

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
    """Describe conditions in words, each with its gap: its loss minus the loss with the right image."""
    return ", ".join(f"{_PLAIN.get(name, name)} {conditions[name].gap:+.3f}" for name in names)


def worded(names: Sequence[str], join: str = "and") -> str:
    """Describe conditions in words, as a list that fits into a sentence."""
    words = [_PLAIN.get(name, name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {join} {words[-1]}"
