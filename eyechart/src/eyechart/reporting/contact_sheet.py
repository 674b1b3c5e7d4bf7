"""A sheet of held-out pictures, each with its true and its written caption, for a first look at the results.

Words of the written caption that are not in the true one are red and underlined. Equal input gives an equal sheet on
every machine, because the font comes with matplotlib.
"""

from __future__ import annotations

import functools
import io
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from eyechart.files import write_atomic
from eyechart.plain import one_line
from eyechart.reporting.results_folder import MEASUREMENT
from eyechart.results import WrittenCaption
from eyechart.stored import opened

_COLUMNS = 4
_CELL, _PICTURE, _MARGIN, _LINE = 260, 220, 20, 19
"""Sizes in pixels: width of a cell, side of a picture's square, margin around cells, height of a text line."""
_FONT_SIZE = 14
_INK, _FAINT, _WRONG = "#1a1a1a", "#6b6b6b", "#c00020"
_BOX = "\u25a1"
"""Replaces a character that the font does not have."""


@dataclass(frozen=True)
class _Word:
    text: str
    colour: str
    underlined: bool = False


def contact_sheet(
    items: Sequence[tuple[Path, WrittenCaption]], path: Path, title: str, measurement: str | None = None
) -> None:
    """Draw the sheet and write it, as a PNG, to `path`.

    Args:
        items: image files and captions. For a file that cannot be opened, a grey square with a note is drawn.
        path: the file to write.
        title: one line above the pictures, such as the checkpoint and its verdict.
        measurement: id of the measurement, which is recorded in the file.
    """
    cells = [(_thumbnail(image), _cell_lines(caption)) for image, caption in items]
    rows = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    heights = [_PICTURE + _LINE * max(len(lines) for _, lines in row) + _MARGIN for row in rows]
    width = _COLUMNS * (_CELL + _MARGIN) + _MARGIN
    header = _wrap(_words(title, _INK), width - 2 * _MARGIN)
    header += _wrap(_words(_legend(items, title), _FAINT), width - 2 * _MARGIN)
    top = _MARGIN + _LINE * len(header) + _MARGIN // 2
    sheet = Image.new("RGB", (width, top + sum(heights) + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    _write(draw, header, _MARGIN, _MARGIN)
    for row, height in zip(rows, heights, strict=True):
        for column, (picture, lines) in enumerate(row):
            left = _MARGIN + column * (_CELL + _MARGIN)
            sheet.paste(picture, (left, top))
            _write(draw, lines, left, top + _PICTURE + 4)
        top += height
    buffer, marks = io.BytesIO(), PngInfo()
    if measurement:
        marks.add_text(MEASUREMENT, measurement)
    sheet.save(buffer, "PNG", pnginfo=marks)
    write_atomic(path, buffer.getvalue())


def missing_words(written: str, true: str) -> list[bool]:
    """Return for each word of `written` whether `true` lacks it; case and punctuation around words are ignored."""
    known = {_bare(word) for word in true.split()}
    return [_bare(word) not in known for word in written.split()]


def _bare(word: str) -> str:
    folded = unicodedata.normalize("NFKC", word).casefold()
    start, end = 0, len(folded)
    while start < end and not folded[start].isalnum():
        start += 1
    while end > start and not folded[end - 1].isalnum():
        end -= 1
    # A word without letters and digits, such as an emoji, is compared unchanged.
    return folded[start:end] or folded


def _legend(items: Sequence[tuple[Path, WrittenCaption]], title: str) -> str:
    # Only sets of words are compared: a caption that swaps two colours has no red word, so the legend states this.
    legend = "red and underlined: not in the true caption (swapped words are not marked)"
    shown = title + "".join(caption.true + caption.written for _, caption in items)
    absent = {c for c in one_line(shown) if not c.isspace() and ord(c) not in _font_characters()}
    if absent:
        legend += f"; {_BOX}: one of {len(absent)} characters that the sheet's font lacks"
    return legend if items else "no captions were written"


def _cell_lines(caption: WrittenCaption) -> list[list[_Word]]:
    marks = missing_words(caption.written, caption.true)
    words = [
        _Word(_drawable(word), _WRONG if missing else _INK, missing)
        for word, missing in zip(caption.written.split(), marks, strict=True)
    ]
    return [
        *_wrap([_Word(f"row {caption.row}, true:", _FAINT)], _CELL),
        *_wrap(_words(caption.true, _INK) or [_Word("(empty)", _FAINT)], _CELL),
        *_wrap([_Word("written:", _FAINT)], _CELL),
        *_wrap(words or [_Word("(empty)", _FAINT)], _CELL),
    ]


def _words(text: str, colour: str) -> list[_Word]:
    return [_Word(_drawable(word), colour) for word in text.split()]


def _drawable(word: str) -> str:
    return "".join(c if ord(c) in _font_characters() else _BOX for c in one_line(word))


def _wrap(words: Sequence[_Word], width: int) -> list[list[_Word]]:
    """Break words into lines of at most `width` pixels; a word that is too long for a line is split."""
    lines: list[list[_Word]] = []
    used = 0.0
    for word in words:
        for piece in _pieces(word, width):
            needed = _font().getlength(piece.text + " ")
            if not lines or used + needed > width + _font().getlength(" "):
                lines.append([])
                used = 0.0
            lines[-1].append(piece)
            used += needed
    return lines


def _pieces(word: _Word, width: int) -> list[_Word]:
    pieces = [""]
    for character in word.text:
        if pieces[-1] and _font().getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return [_Word(piece, word.colour, word.underlined) for piece in pieces]


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[Sequence[_Word]], left: int, top: int) -> None:
    for number, line in enumerate(lines):
        x, y = float(left), top + number * _LINE
        for word in line:
            draw.text((x, y), word.text, fill=word.colour, font=_font())
            length = _font().getlength(word.text)
            if word.underlined:
                draw.line((x, y + _FONT_SIZE + 2, x + length, y + _FONT_SIZE + 2), fill=word.colour)
            x += length + _font().getlength(" ")


def _thumbnail(path: Path) -> Image.Image:
    """Return the picture in a grey square of _PICTURE pixels; small pictures are enlarged."""
    square = Image.new("RGB", (_PICTURE, _PICTURE), "#e4e4e4")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(opened(path)) as image:
                upright = ImageOps.exif_transpose(image).convert("RGBA")
    except Exception as error:  # noqa: BLE001 - decoders can raise any error, and a sheet must not fail
        _write(ImageDraw.Draw(square), _wrap(_words(f"cannot open: {type(error).__name__}", _INK), _PICTURE - 16), 8, 8)
        return square
    white = Image.new("RGBA", upright.size, "white")
    picture = ImageOps.contain(Image.alpha_composite(white, upright).convert("RGB"), (_PICTURE, _PICTURE))
    square.paste(picture, ((_PICTURE - picture.width) // 2, (_PICTURE - picture.height) // 2))
    return square


def _font_file() -> str:
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    # Every Pillow includes the basic layout engine; the other engine depends on software installed on the machine.
    return ImageFont.truetype(_font_file(), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _font_characters() -> frozenset[int]:
    return frozenset(FT2Font(_font_file()).get_charmap())
