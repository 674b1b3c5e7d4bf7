"""What messages show of a value from outside: at most 80 characters of one line, without building the rest."""

from __future__ import annotations

from collections.abc import Iterator

_LONGEST = 80
_DIGITS_BITS = 300
"""Integers of more bits than this are not written out; Python itself refuses above 4,300 digits."""


def short(value: object, most: int = _LONGEST) -> str:
    """Return a value as at most `most` characters of one line; a cut text ends in `...`."""
    text = ""
    for piece in _pieces(value, most):
        text += piece
        if len(text) > most:
            return f"{text[: most - 3]}..."
    return text


def _pieces(value: object, most: int) -> Iterator[str]:
    """Yield what `repr` returns, in pieces; a long text or number is only begun."""
    if type(value) is dict:
        yield "{"
        for place, (key, item) in enumerate(value.items()):
            yield ", " if place else ""
            yield from _pieces(key, most)
            yield ": "
            yield from _pieces(item, most)
        yield "}"
    elif type(value) is list:
        yield "["
        for place, item in enumerate(value):
            yield ", " if place else ""
            yield from _pieces(item, most)
        yield "]"
    elif isinstance(value, (str, bytes)):
        yield repr(value[: 2 * most])
    elif isinstance(value, int) and value.bit_length() > _DIGITS_BITS:
        yield f"an integer of {value.bit_length():,} bits"
    else:
        yield repr(value)
