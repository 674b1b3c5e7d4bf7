"""What a text file of rows looks like from outside: its beginning, and how many bytes its rows have.

A parser makes an object of every value, so a large file of something else would take many times its size in memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from eyechart.exits import InputError
from eyechart.outside import bounds
from eyechart.outside.shown import short

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_FIX = "is it the right file?"


@dataclass(frozen=True)
class Form:
    """A kind of text file."""

    name: str
    """As in `not a JSON file of rows`."""
    separator: bytes
    """What is between two values."""
    row: bytes
    """What every row has once or more."""
    first: bytes
    """Bytes of which one is the first of the file that is not white space; any, if it is empty."""

    def require_beginning(self, path: Path, head: bytes) -> None:
        """Refuse a file of another kind by its first `bounds.SNIFFED_BYTES`.

        Raises:
            InputError: it has zero bytes, begins with white space or another byte, or is nested too deeply.
        """
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if not text or b"\0" in text:
            what = "zero bytes" if b"\0" in text else f"{len(head):,} bytes of white space"
            raise InputError(f"{path}: not a {self.name} file of rows: it has {what} at the beginning", _FIX)
        if self.first and text[:1] not in self.first:
            raise InputError(f"{path}: not a {self.name} file of rows: it begins with {short(text[:20])}", _FIX)
        if self.first and _depth(text) > bounds.JSON_DEPTH:
            raise InputError(f"{path}: nested more than {bounds.JSON_DEPTH} levels deep at the beginning", _FIX)

    def require_rows(self, path: Path, data: bytes) -> None:
        """Refuse a large file whose values are too many to be rows.

        Raises:
            InputError: there is less than `bounds.ROW_BYTES` for each row, or there are more values than
                `bounds.VALUES_PER_ROW` for each.
        """
        rows = data.count(self.row)
        most = (rows + 1) * bounds.VALUES_PER_ROW
        values = data.count(self.separator) if most < len(data) else 0  # it takes time, and most files have enough rows
        if rows * bounds.ROW_BYTES > len(data) or values > most:
            raise InputError(
                f"{path}: not a {self.name} file of rows: {len(data):,} bytes with {rows:,} beginnings of rows", _FIX
            )


def _depth(text: bytes) -> int:
    """Return the largest number of open brackets outside texts."""
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRING.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


JSON_FORM = Form("JSON", separator=b",", row=b"{", first=b"[{")
CSV_FORM = Form("CSV", separator=b"\0", row=b"\n", first=b"")
