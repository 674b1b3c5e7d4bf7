"""Defines the words of the scenes world (drawn shapes), reads attributes from its captions, and grades captions.

A caption is converted to one set of words per attribute, so that word order and phrasing do not affect the grade. Which
colour belongs to which shape (`binding`) is read from adjacent words. Binding is graded separately, and only for
captions that mention two things (shapes).
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
"""The words for the cells of the 3x3 grid of positions, by row and column."""

_VOCABULARY = {"colour": COLOURS, "shape": SHAPES, "background": BACKGROUNDS, "texture": TEXTURES, "size": SIZES}
FACT_WORDS = frozenset(word for words in _VOCABULARY.values() for word in words) | frozenset(
    word for row in PLACES for place in row for word in place.split()
)
"""All words that describe the picture. The other words of a caption are only phrasing."""

_PLACE = re.compile(r"\b(?:(?:top|bottom) (?:left|right)|top|bottom|left|right|middle)\b")


def words_of(text: str) -> list[str]:
    """Return the words of a caption in their order, in lower case."""
    return re.findall(r"[a-z]+", text.lower())


def attributes(text: str) -> dict[str, frozenset[str]]:
    """Return the attributes that a caption mentions, as one set of words per attribute.

    Returns:
        The sets for `colour`, `shape`, `background`, `texture`, `size`, `position` (grid cells such as `top left`) and
        `count` (the number of shapes mentioned, as a digit; `0` if there are none). The set of an attribute that the
        caption does not mention is empty.
    """
    words = words_of(text)
    said = {name: frozenset(words).intersection(known) for name, known in _VOCABULARY.items()}
    said["position"] = frozenset(_PLACE.findall(text.lower()))
    said["count"] = frozenset({str(sum(word in SHAPES for word in words))})
    return said


def bindings(text: str) -> frozenset[tuple[str, str]]:
    """Return all pairs (colour, shape) of adjacent words: the colour that the caption gives to each shape."""
    words = words_of(text)
    return frozenset(
        (one, other) for one, other in zip(words, words[1:], strict=False) if one in COLOURS and other in SHAPES
    )


def grade(written: str, true: str) -> dict[str, bool]:
    """Compare a generated caption with the true caption, and return for each attribute whether it is correct.

    An attribute is correct if both captions have exactly the same set of words for it. `binding` is graded only if the
    true caption mentions two things, because a single thing cannot be confused with another.
    """
    said, meant = attributes(written), attributes(true)
    marks = {name: said[name] == meant[name] for name in meant}
    pairs = bindings(true)
    if len(pairs) > 1:
        marks["binding"] = bindings(written) == pairs
    return marks
