"""The words of the scenes world, and functions that read attributes from captions and grade captions.

A caption is read as sets of attribute words, so word order and phrasing do not matter. Which colour belongs to which
shape (`binding`) is read from adjacent words and graded separately, only for captions with two things.
"""

from __future__ import annotations

import re

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
BACKGROUNDS = ("white", "grey", "pink", "beige", "cyan")
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "large")
PLACES = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)
"""Words of the 3x3 grid, by row and column."""

_VOCABULARY = {"colour": COLOURS, "shape": SHAPES, "background": BACKGROUNDS, "texture": TEXTURES, "size": SIZES}
FACT_WORDS = frozenset(word for words in _VOCABULARY.values() for word in words) | frozenset(
    word for row in PLACES for place in row for word in place.split()
)
"""All words of captions that describe the picture; the others are phrasing."""

_PLACE = re.compile(r"\b(?:(?:top|bottom) (?:left|right)|top|bottom|left|right|middle)\b")


def words_of(text: str) -> list[str]:
    """Return the words of a caption in lower case and in order."""
    return re.findall(r"[a-z]+", text.lower())


def attributes(text: str) -> dict[str, frozenset[str]]:
    """Return the attributes that a caption names, as a set of words for each attribute.

    Returns:
        `colour`, `shape`, `background`, `texture`, `size`, `position` (cells such as `top left`) and `count` (how many
        shapes are named, as a digit; `0` without shapes). The set is empty if an attribute is not mentioned.
    """
    words = words_of(text)
    said = {name: frozenset(words).intersection(known) for name, known in _VOCABULARY.items()}
    said["position"] = frozenset(_PLACE.findall(text.lower()))
    said["count"] = frozenset({str(sum(word in SHAPES for word in words))})
    return said


def bindings(text: str) -> frozenset[tuple[str, str]]:
    """Return pairs (colour, shape) of adjacent words, which show the colour that the caption gives to each shape."""
    words = words_of(text)
    return frozenset(
        (one, other) for one, other in zip(words, words[1:], strict=False) if one in COLOURS and other in SHAPES
    )


def grade(written: str, true: str) -> dict[str, bool]:
    """Compare a written caption with the true one, attribute by attribute.

    An attribute is correct if both captions name the same set of words, with none missing and none added. `binding` is
    graded only if the true caption has two things, because with one thing there is nothing to confuse.
    """
    said, meant = attributes(written), attributes(true)
    marks = {name: said[name] == meant[name] for name in meant}
    pairs = bindings(true)
    if len(pairs) > 1:
        marks["binding"] = bindings(written) == pairs
    return marks
