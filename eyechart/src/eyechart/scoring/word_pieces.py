"""Joins tokens into words, for any language and any tokenizer, and computes what a wrong picture costs each word.

The cost of a wrong picture is the loss with the picture of another sample minus the loss with the right picture.

A token is not a word: a word may have several tokens, a token may contain several words, and the tokens of an emoji or
a rare Chinese character are single bytes that have no meaning by themselves. The text is therefore divided twice: into
words by its characters, and into tokens by decoding longer and longer prefixes of the token sequence. The result is a
list of pieces. A piece ends at every position where both a word and a token end.

A word is a run of letters, digits and their combining marks, possibly with apostrophes and hyphens inside. In scripts
written without spaces, every character counts as a word, so pieces end where tokens end. Every other visible character
also counts as a separate word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from eyechart.results import END, Piece
from eyechart.scoring.summary import SampleScore
from eyechart.verdict.statistics import FloatArray

Decode = Callable[[list[int]], str]
"""A function that converts token ids to text and keeps special tokens and all spaces."""

_JOINER = "\u200d"
_INNER = "'\u2019-\u2010"
"""Apostrophes and hyphens, which are part of a word if they are between two letters or digits."""
# Scripts written without spaces: Han with its extensions and iteration marks, kana, Thai, Lao, Myanmar, Khmer.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_SKIN_TONES, _FLAG_LETTERS = (0x1F3FB, 0x1F3FF), (0x1F1E6, 0x1F1FF)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a caption, and the range of label tokens that it consists of."""

    text: str
    """Text, including the space before it. The last piece of a caption also includes the space after it."""
    first: int
    stop: int
    """End of the range: the piece consists of the label tokens first..stop-1."""

    @property
    def word(self) -> str:
        """The text in lower case, without surrounding space; tables count pieces with equal `word` as the same word."""
        return self.text.strip().casefold()

    @property
    def has_word(self) -> bool:
        """Whether the piece contains a letter or a digit, and not only punctuation, emoji or white space."""
        return any(_kind(c) in ("word", "unspaced") for c in self.text)


def gaps_of(score: SampleScore) -> FloatArray:
    """Return nll(shuffled) - nll(correct) per label token, [T, R], with one column per derangement."""
    return np.stack([wrong_T - score.nll["correct"][0] for wrong_T in score.nll["shuffled"]], axis=1)


def pieces_of(score: SampleScore, decode: Decode, eos_id: int | None) -> list[Piece]:
    """Divide a caption into words, each with the cost of a wrong picture in nats.

    A final EOS token becomes a separate piece. The joined texts of all other pieces are the labelled part of the
    caption.
    """
    gaps_T = gaps_of(score).mean(axis=1)
    spans, end = spans_of(score.label_ids_T.tolist(), decode, eos_id)
    pieces = [Piece(text=span.text, gap=float(gaps_T[span.first : span.stop].sum())) for span in spans]
    return [*pieces, Piece(text=END, gap=float(gaps_T[-1]))] if end else pieces


def spans_of(ids: list[int], decode: Decode, eos_id: int | None) -> tuple[list[Span], bool]:
    """Group the label tokens of a caption into words.

    Returns:
        The pieces in reading order, and whether the last token is EOS. The pieces contain every token except this EOS.
    """
    end = bool(ids) and ids[-1] == eos_id
    ids = ids[:-1] if end else ids
    text = decode(ids) if ids else ""
    inside = _inside_words(text)
    spans: list[Span] = []
    start, first = 0, 0
    for stop in range(1, len(ids) + 1):
        place = _place(ids, stop, decode, text)
        # A piece does not end inside a character or a word, nor while it contains only white space.
        if stop < len(ids) and (place is None or place in inside or not text[start:place].strip()):
            continue
        place = len(text) if place is None else place
        spans.append(Span(text[start:place], first, stop))
        start, first = place, stop
    if len(spans) > 1 and not spans[-1].text.strip():
        last, closing = spans[-2:]
        spans[-2:] = [Span(last.text + closing.text, last.first, closing.stop)]
    return spans, end


def _place(ids: list[int], stop: int, decode: Decode, text: str) -> int | None:
    """Return the position in the text where the first `stop` tokens end; None if that is inside a character."""
    if stop == len(ids):
        return len(text)
    beginning = decode(ids[:stop])
    return len(beginning) if text.startswith(beginning) else None


def _inside_words(text: str) -> set[int]:
    """Return the positions between two characters of the same word."""
    return {place for place in range(1, len(text)) if _joined(text, place)}


def _joined(text: str, place: int) -> bool:
    """Return whether the characters before and after `place` belong to the same word, emoji or flag."""
    before, after = text[place - 1], text[place]
    left, right = _kind(before), _kind(after)
    if right == "extend" or before == _JOINER:
        return left != "space"
    if right == "flag" and left == "flag":
        # A flag is a pair of regional indicator letters, so an odd number of them before `place` means: inside a pair.
        run = 0
        while run < place and _kind(text[place - 1 - run]) == "flag":
            run += 1
        return run % 2 == 1
    if right == "word":
        return _base(text, place) == "word" or (left == "inner" and _base(text, place - 1) == "word")
    if right == "inner":
        return _base(text, place) == "word" and place + 1 < len(text) and _kind(text[place + 1]) == "word"
    return False


def _base(text: str, place: int) -> str:
    """Return the kind of the character before `place`, skipping combining marks."""
    while place > 1 and _kind(text[place - 1]) == "extend":
        place -= 1
    return _kind(text[place - 1]) if place > 0 else "space"


@lru_cache(maxsize=65536)
def _kind(character: str) -> str:
    code = ord(character)
    if character.isspace():
        return "space"
    category = unicodedata.category(character)
    if category[0] == "M" or character == _JOINER or _SKIN_TONES[0] <= code <= _SKIN_TONES[1]:
        return "extend"
    if _FLAG_LETTERS[0] <= code <= _FLAG_LETTERS[1]:
        return "flag"
    if character in _INNER:
        return "inner"
    if category[0] in "LN":
        return "unspaced" if any(low <= code <= high for low, high in _UNSPACED) else "word"
    return "mark"
