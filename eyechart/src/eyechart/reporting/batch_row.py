"""Shows one row of a batch as the model sees it: its images, its text, and which tokens are labelled."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import Any

from eyechart.exits import InputError
from eyechart.faults.batch_evidence import BatchEvidence
from eyechart.plain import one_line
from eyechart.processors.pixel_entries import Entry
from eyechart.processors.pixel_images import entry_pixels, normalisation_of, picture

_SIDE = 320
"""Longest side of a thumbnail in pixels."""
_IMAGES = 12
"""Maximum number of thumbnails."""
_TEXT = 4_000
"""Maximum number of characters of a row on the terminal."""


class Kind(Enum):
    """The content of a stretch of positions."""

    TEXT = "text"
    IMAGE = "image"
    PADDING = "padding"


@dataclass(frozen=True)
class Stretch:
    """Consecutive positions of one kind."""

    kind: Kind
    """The content of these positions."""
    text: str
    """The decoded tokens; for images and padding, a text with the number of positions."""
    labelled: bool
    """Whether they have labels."""
    answer: bool
    """Whether they are answer tokens."""


@dataclass(frozen=True)
class Thumbnail:
    """An image of a row, made from the pixels in the batch."""

    source: str
    """The picture as a data URL; empty if it cannot be shown."""
    caption: str
    """Its size and its number of visual tokens, or why it is not shown."""


def stretches(evidence: BatchEvidence, row: int) -> list[Stretch]:
    """Return the positions of a row in stretches of equal content, with or without labels.

    Raises:
        InputError: there is no such row.
    """
    geometry = evidence.geometry
    if not 0 <= row < geometry.rows:
        raise InputError(f"row: expected a number from 0 to {geometry.rows - 1}, got {row}", "choose another row")
    labelled_BT = evidence.labelled_BT

    def group(place: int) -> tuple[Kind, bool, bool]:
        if not geometry.attended_BT[row, place] and not geometry.image_BT[row, place]:
            kind = Kind.PADDING
        else:
            kind = Kind.IMAGE if geometry.image_BT[row, place] else Kind.TEXT
        labelled = labelled_BT is not None and bool(labelled_BT[row, place])
        return kind, labelled, bool(evidence.answers.answer_BT[row, place])

    found = []
    for (kind, labelled, answer), places in groupby(range(geometry.ids_BT.shape[1]), group):
        ids = geometry.ids_BT[row, list(places)].tolist()
        text = _decoded(evidence.tokenizer, ids) if kind is Kind.TEXT else _counted(kind, len(ids))
        found.append(Stretch(kind, text, labelled, answer))
    return found


def row_text(evidence: BatchEvidence, row: int) -> str:
    """Return a row as text, with labelled stretches in double brackets, and counts for images and padding.

    Raises:
        InputError: there is no such row.
    """
    written = []
    for part in stretches(evidence, row):
        text = one_line(part.text.replace("\n", "\u21b5"))
        written.append(f"\u27e6{text}\u27e7" if part.labelled else text)
    whole = "".join(written)
    shown = whole if len(whole) <= _TEXT else f"{whole[: _TEXT // 2]} ... {whole[-_TEXT // 2 :]}"
    captions = [f"  {thumbnail.caption}" for thumbnail in thumbnails(evidence, row)]
    legend = f"row {row} (\u27e6labelled\u27e7, \u21b5 line break):"
    return "\n".join([legend, *captions, f"  {shown}"])


def thumbnails(evidence: BatchEvidence, row: int) -> list[Thumbnail]:
    """Return the images of a row; empty if it has none."""
    geometry = evidence.geometry
    if geometry.unassigned is not None:
        return [Thumbnail("", f"images not shown: {geometry.unassigned.value}")] if geometry.entries else []
    entries = geometry.entries_of(row)
    found = [_thumbnail(evidence, entry, place) for place, entry in enumerate(entries[:_IMAGES])]
    more = len(entries) - _IMAGES
    return [*found, Thumbnail("", f"and {more} more")] if more > 0 else found


def _thumbnail(evidence: BatchEvidence, entry: Entry, place: int) -> Thumbnail:
    tokens = "" if entry.tokens is None else f", {entry.tokens} visual tokens"
    pixels_CHW = entry_pixels(evidence.batch, evidence.geometry, entry, evidence.processor)
    if pixels_CHW is None:
        return Thumbnail("", f"image {place}: not shown, because its pixels are stored in an unknown form{tokens}")
    shown = picture(pixels_CHW, normalisation_of(evidence.processor))
    caption = f"image {place}: {shown.height} x {shown.width} pixels{tokens}"
    shown.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return Thumbnail(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", caption)


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    """Decode ids to text; without a tokenizer, return the ids as text."""
    if not hasattr(tokenizer, "decode"):
        return " ".join(map(str, ids))
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _counted(kind: Kind, count: int) -> str:
    words = {Kind.IMAGE: "image position", Kind.PADDING: "padding token"}[kind]
    return f"[{count} {words}{'' if count == 1 else 's'}]"
