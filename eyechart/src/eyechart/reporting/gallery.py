"""The gallery: each picture with its caption, coloured by how much each word relies on it, and the written caption."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from eyechart.data.choice import even_choice
from eyechart.data.images import ImageError, load_thumbnail
from eyechart.plain import one_line
from eyechart.reporting.contact_sheet import missing_words
from eyechart.reporting.text import shortened
from eyechart.reporting.wording import signed
from eyechart.results import END, Piece, ScoredSample

FULL_COLOUR = 3.0
"""Gap in nats at which a word has its full colour; a fixed value, so that colours of two pages are comparable."""
_SIDES = (160, 120, 80, 48)
_TOTAL_BYTES, _EACH_BYTES = 1_000_000, 12_000
"""Maximum size in bytes of all thumbnails together, and of one thumbnail; base64 adds a third."""
_SHADES = 10
"""Number of colour steps; report.css has a class for each step."""
_WORTH_A_MARK = 0.1
"""A word that the picture makes less likely by at least this many nats is marked in addition to its colour."""
_LONG = 280
"""A caption with at least this many characters is shown in a scrollable box."""
_ALT = 120
"""Number of characters of a caption that are used as the alternative text of its picture."""
_OPEN = 12
"""Number of cards that are shown unfolded at each end of the gallery."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture embedded in the page, or the reason why there is none."""

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Word:
    """A piece of text with its style."""

    text: str
    gap: str = ""
    """How much the word relies on the picture, in nats; empty if not measured."""
    space: bool = False
    """Whether a space comes before it."""
    kind: str = ""
    """CSS classes. `b1` to `b10`: the picture made the word likelier (shades of blue). `o1` to `o10`: it made the word
    less likely (shades of orange). `against`: so much less likely that it is marked. `end`: the end token. `missing`: a
    written word that is not in the true caption."""


@dataclass(frozen=True)
class Card:
    """One sample of the gallery."""

    row: int
    image: str
    alt: str
    thumbnail: Thumbnail
    caption: list[Word]
    coloured: bool
    long: bool
    written: list[Word] | None
    written_long: bool
    gap: str
    """The gap of shuffled as text; empty if not measured."""
    losses: str


@dataclass(frozen=True)
class GalleryPart:
    """A series of cards, shown directly or folded under a summary line."""

    cards: list[Card]
    first: int
    """Position of the first card, counted from 1."""
    summary: str = ""


@dataclass(frozen=True)
class Gallery:
    """All cards and their order."""

    parts: list[GalleryPart]
    cards: int
    lost_images: int
    by_gap: bool
    """Whether the cards are ordered by the gap of shuffled, with coloured words; otherwise they are ordered by row."""
    written: bool
    """Whether some card has a caption that the model wrote."""


def make_gallery(scored: Sequence[ScoredSample], limit: int, image_root: Path | None, max_pixels: int) -> Gallery:
    """Make the gallery of at most `limit` samples, evenly spaced in their order.

    Args:
        scored: samples from the most to the least image-driven, or in the order of rows if none of them has a gap.
        limit: maximum number of cards.
        image_root: folder of the images; None if unknown.
        max_pixels: images with more pixels are not opened.
    """
    by_gap = any(gap_of(sample) is not None for sample in scored)
    ordered = scored if by_gap else sorted(scored, key=lambda sample: sample.row)
    cards = _cards(ordered, limit, image_root, max_pixels, by_gap)
    return Gallery(
        parts=_parts(cards),
        cards=len(cards),
        lost_images=sum(not card.thumbnail.uri for card in cards),
        by_gap=by_gap,
        written=any(card.written is not None for card in cards),
    )


def _parts(cards: list[Card]) -> list[GalleryPart]:
    """Divide the cards into parts: the best and the worst are shown unfolded; the middle is folded."""
    if len(cards) <= 2 * _OPEN + 6:
        return [GalleryPart(cards, 1)] if cards else []
    between_ends = len(cards) - 2 * _OPEN
    return [
        GalleryPart(cards[:_OPEN], 1),
        GalleryPart(cards[_OPEN:-_OPEN], _OPEN + 1, f"Show the other {between_ends:,} cards"),
        GalleryPart(cards[-_OPEN:], len(cards) - _OPEN + 1),
    ]


def _cards(
    scored: Sequence[ScoredSample], limit: int, image_root: Path | None, max_pixels: int, by_gap: bool
) -> list[Card]:
    chosen = [scored[i] for i in even_choice(len(scored), limit)]
    room = min(_EACH_BYTES, _TOTAL_BYTES // max(1, len(chosen)))
    return [_card(sample, _thumbnail(sample.image, image_root, room, max_pixels), by_gap) for sample in chosen]


def gap_of(sample: ScoredSample) -> float | None:
    """Return the gap of shuffled in nats per label token; None if one of its two losses is missing."""
    if "shuffled" not in sample.losses or "correct" not in sample.losses:
        return None
    return (sample.losses["shuffled"] - sample.losses["correct"]) / sample.label_tokens


def _card(sample: ScoredSample, thumbnail: Thumbnail, by_gap: bool) -> Card:
    gap = gap_of(sample)
    per_token = (f"{name} {loss / sample.label_tokens:.3f}" for name, loss in sample.losses.items())
    words = [_coloured(piece, piece is sample.pieces[-1]) for piece in sample.pieces] or [
        Word(one_line(sample.caption))
    ]
    written = None if sample.written is None else _written(sample.written, sample.caption)
    return Card(
        row=sample.row,
        image=one_line(sample.image),
        alt=f"Held-out image of row {sample.row}: {shortened(one_line(sample.caption), _ALT)}",
        thumbnail=thumbnail,
        caption=words,
        coloured=bool(sample.pieces),
        long=len(sample.caption) > _LONG,
        written=written,
        written_long=len(sample.written or "") > _LONG,
        gap=signed(gap) if gap is not None else "no finite gap" if by_gap else "",
        losses=", ".join(per_token),
    )


def _coloured(piece: Piece, last: bool) -> Word:
    shade = round(min(1.0, abs(piece.gap) / FULL_COLOUR) * _SHADES)
    kinds = (
        (f"{'b' if piece.gap >= 0 else 'o'}{shade}", shade > 0),
        ("against", piece.gap <= -_WORTH_A_MARK),
        ("end", last and piece.text == END),
    )
    return Word(
        text=one_line(piece.text),
        space=piece.text[:1].isspace(),
        gap=signed(piece.gap),
        kind=" ".join(kind for kind, holds in kinds if holds),
    )


def _written(written: str, true: str) -> list[Word]:
    marks = missing_words(written, true)
    return [
        Word(one_line(word), kind="missing" if missing else "")
        for word, missing in zip(written.split(), marks, strict=True)
    ]


def _thumbnail(image: str, root: Path | None, room: int, max_pixels: int) -> Thumbnail:
    if root is None:
        return Thumbnail(problem="the results do not record where the images are")
    try:
        picture = load_thumbnail(root / image, _SIDES[0], max_pixels)
    except ImageError as error:
        return Thumbnail(problem=error.reason)
    for side in _SIDES:
        picture.thumbnail((side, side))
        data, kind = _smaller(picture)
        if len(data) <= room:
            uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            return Thumbnail(uri, picture.width, picture.height)
    return Thumbnail(problem="left out because the page would be too large")


def _smaller(picture: Image.Image) -> tuple[bytes, str]:
    """Encode a picture as PNG and JPEG and return the smaller one: PNG for most drawings, JPEG for photographs."""
    encoded = []
    for kind in ("png", "jpeg"):
        buffer = io.BytesIO()
        picture.save(buffer, kind, quality=80)  # PNG ignores the quality
        encoded.append((buffer.getvalue(), kind))
    return min(encoded, key=lambda pair: len(pair[0]))
