"""Shows one sample as the model receives it: its tokens, decoded to text and divided into prompt, image and label."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from eyechart.seam import IGNORE_INDEX
from qwen3_vlm.preflight.text import Row, Tokens

Kind = Literal["prompt", "image", "label"]


@dataclass(frozen=True)
class Span:
    """Adjacent tokens of a sample that are of the same kind: prompt, image or label."""

    kind: Kind
    text: str
    tokens: int


@dataclass(frozen=True)
class View:
    """A sample as readable text."""

    row: int
    image: str
    caption: str
    """The caption as it is in the data file."""
    spans: tuple[Span, ...]
    """All tokens of the sample in their order, without padding."""


def view_of(row: Row, patch_id: int, tokens: Tokens) -> View:
    """Divide a sample into spans of prompt, image and label tokens.

    An image position that has a label, which is a fault, is part of a label span.
    """

    def kind(t: int) -> Kind:
        if row.labels[t] != IGNORE_INDEX:
            return "label"
        return "image" if row.ids[t] == patch_id or row.block[0] <= t < row.block[1] else "prompt"

    spans = []
    for name, group in groupby(range(len(row.ids)), key=kind):
        positions = list(group)
        # A label span shows the text of the labels instead of the input ids, so that wrong labels are visible.
        source = row.labels if name == "label" else row.ids
        spans.append(Span(name, tokens.decode([source[t] for t in positions]), len(positions)))
    return View(row.sample.row, row.raw.image, row.raw.caption, tuple(spans))
