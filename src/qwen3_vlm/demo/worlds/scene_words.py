"""The words of the scenes world, and what a caption says: read back and graded.

A caption is read as sets of attribute words, so word order and phrasing are free. Which colour belongs to which shape
(`binding`) is read from neighbouring words and graded on its own, for two things only.
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
"""Every word of a caption that says something about the picture; the rest is phrasing."""

_PLACE = re.compile(r"\b(?:(?:top|bottom) (?:left|right)|top|bottom|left|right|middle)\b")


def words_of(text: str) -> list[str]:
    """The lower-case words of a caption, in order."""
    return re.findall(r"[a-z]+", text.lower())


def attributes(text: str) -> dict[str, frozenset[str]]:
    """What a caption says, as sets of words per attribute.

    Returns:
        `colour`, `shape`, `background`, `texture`, `size`, `position` (cells such as `top left`) and `count` (how many
        shapes are named, as a digit). An attribute the caption does not mention is an empty set; no shapes count `0`.
    """
    words = words_of(text)
    said = {name: frozenset(words).intersection(known) for name, known in _VOCABULARY.items()}
    said["position"] = frozenset(_PLACE.findall(text.lower()))
    said["count"] = frozenset({str(sum(word in SHAPES for word in words))})
    return said


def bindings(text: str) -> frozenset[tuple[str, str]]:
    """Pairs (colour, shape) that are next to each other: which colour the caption gives to which shape."""
    words = words_of(text)
    return frozenset(
        (one, other) for one, other in zip(words, words[1:], strict=False) if one in COLOURS and other in SHAPES
    )


def grade(written: str, true: str) -> dict[str, bool]:
    """Compare a written caption with the true one, attribute by attribute.

    An attribute is right when the two captions name the same SET of words: no thing forgotten, none invented.
    `binding` is there only where the true caption has two things; with one there is nothing to confuse.
    """
    said, meant = attributes(written), attributes(true)
    marks = {name: said[name] == meant[name] for name in meant}
    pairs = bindings(true)
    if len(pairs) > 1:
        marks["binding"] = bindings(written) == pairs
    return marks
