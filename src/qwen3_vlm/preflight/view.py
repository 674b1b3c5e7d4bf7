"""One sample as the model reads it: decoded, with what is prompt, what is image and what is label."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from eyechart.seam import IGNORE_INDEX
from qwen3_vlm.preflight.text import Row, Tokens

Kind = Literal["prompt", "image", "label"]


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of one kind."""

    kind: Kind
    text: str
    tokens: int


@dataclass(frozen=True)
class View:
    """A sample as readable text."""

    row: int
    image: str
    caption: str
    """As the data file has it."""
    spans: tuple[Span, ...]
    """In reading order; together all of the sample's tokens, and labels in the padding after them if there are any."""


def view_of(row: Row, patch_id: int, tokens: Tokens) -> View:
    """Cut a sample into stretches of prompt, image and label; a labelled image position is a label."""

    def kind(t: int) -> Kind:
        if row.labels[t] != IGNORE_INDEX:
            return "label"
        return "image" if row.ids[t] == patch_id or row.block[0] <= t < row.block[1] else "prompt"

    spans = []
    for name, group in groupby(range(len(row.ids)), key=kind):
        positions = list(group)
        # Labels are shown as labels: where they are wrong, so is the text.
        source = row.labels if name == "label" else row.ids
        spans.append(Span(name, tokens.decode([source[t] for t in positions]), len(positions)))
    return View(row.sample.row, row.raw.image, row.raw.caption, tuple(spans))
