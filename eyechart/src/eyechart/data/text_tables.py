"""CSV files as records: the first line names the columns."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from eyechart.data.forms import CSV_FORM
from eyechart.data.json_rows import read_bytes
from eyechart.data.layouts import fits_any
from eyechart.data.records import Record, UnusableError, no_base64
from eyechart.exits import InputError
from eyechart.outside.shown import short

_LONGEST_FIELD = 2**24
"""Longest field in characters; Python's own limit of 131,072 is for the whole process and is restored."""
_SEPARATORS = ",;\t|"


class CsvRecords:
    """The rows of a CSV file; `Records`. An empty field is a missing value."""

    kind = "CSV"

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ValueError: the file is missing, empty, not UTF-8, or has no rows.
        """
        self.files: tuple[Path, ...] = (path,)
        data = read_bytes(path, CSV_FORM)
        try:
            data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: byte 0x{error.object[error.start]:02x} at position {error.start} is not UTF-8",
                "save the file as CSV UTF-8",
            ) from error
        lines = _parsed(path, data)
        if not lines:
            raise InputError(f"{path}: the file is empty", "the first line names the columns, such as image,caption")
        self._header = [name.strip() for name in lines[0]]
        self._rows = lines[1:]
        _check_header(path, self._header, self._rows)

    def __len__(self) -> int:
        """Number of rows, without the header."""
        return len(self._rows)

    def record(self, index: int) -> Record:
        """See `Records`."""
        row = self._rows[index]
        if len(row) != len(self._header):
            raise UnusableError(
                "wrong number of columns",
                f"{len(row)} fields for {len(self._header)} columns: put a text with a separator in quotes, got "
                f"{short(row)}",
            )
        return {name: value or None for name, value in zip(self._header, row, strict=True)}

    def locate(self, index: int, text: str) -> str:
        """See `Records`."""
        raise no_base64("a CSV file")


def _parsed(path: Path, data: bytes) -> list[list[str]]:
    first = data.partition(b"\n")[0].decode("utf-8-sig")
    separator = max(_SEPARATORS, key=first.count)
    before = csv.field_size_limit(_LONGEST_FIELD)
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")  # decodes as it is read
    try:
        return [row for row in csv.reader(text, delimiter=separator, strict=True) if row]
    except csv.Error as error:
        raise InputError(
            f"{path}: not a readable CSV file ({error})", "close every quote, and double quotes inside a text"
        ) from error
    finally:
        csv.field_size_limit(before)


def _check_header(path: Path, header: list[str], rows: list[list[str]]) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise InputError(f"{path}: columns with the same name: {short(repeated)}", "rename them in the first line")
    looks_like_data = not fits_any(header) and any("." in name and " " not in name for name in header)
    if looks_like_data and any(" " in name for name in header):
        raise InputError(
            f"{path}: the first line names no columns: {short(header)}", "put a line image,caption before the first row"
        )
    if not rows:
        raise InputError(f"{path}: no rows after the first line {short(header)}", "is the file complete?")
