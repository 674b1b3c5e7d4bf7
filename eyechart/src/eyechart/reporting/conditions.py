"""Describes the conditions of check 1 in words.

A condition determines what the image positions contain. Its gap is the loss under this condition minus the loss with
the right image; the texts in this module state what each gap measures.
"""

from __future__ import annotations

MEANINGS = {
    "correct": "the image's own visual tokens",
    "shuffled": "what a wrong picture costs; the only gate that tests content",
    "zero": "what it costs to set the visual tokens to zero",
    "noise": "what it costs to replace the visual tokens by noise of the same overall mean and spread",
    "no-image": "what it costs to leave the image out of the prompt and keep only the text",
    "mean-token": "what it costs to replace the image by the average training image",
    "noise-per-dim": "what it costs to replace the visual tokens by noise with the mean and spread of every slot and "
    "dimension",
    "slot-mix": "what it costs to take every slot from another picture: each slot is real, but together they belong "
    "to no picture",
    "grey": "what it costs to show a uniform mid-grey picture",
    "blurred": "what fine detail contributes: the picture blurred by 1/16 of its side",
    "tiles-2": "what the coarse layout contributes: the 2x2 tiles of the picture are shuffled",
    "tiles-4": "what layout and whole objects contribute: the 4x4 tiles of the picture are shuffled",
    "tiles-8": "what everything except fine texture and colour contributes: the 8x8 tiles of the picture are shuffled",
    "blind": "what the picture contributes beyond the best constant prompt, trained to fit all captions at once",
}
"""What the gap of a condition measures, in one line, by the name of the condition."""
IN_PLACE = {
    "shuffled": "another sample's picture",
    "zero": "zeros",
    "noise": "noise",
    "no-image": "no image",
    "mean-token": "the average training image",
    "blind": "the trained constant prompt",
}
"""What replaces the picture in a condition, worded as part of a sentence, by the name of the condition."""


def listed(names: list[str], join: str = "and") -> str:
    """Return the names of conditions in words, joined by commas and `join` for use inside a sentence."""
    words = [IN_PLACE.get(name, name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {join} {words[-1]}"
