"""Reads a JSON list or JSON Lines as records, optionally gzipped, with or without a byte order mark, with LF or CRLF.

The JSON syntax of every row is checked; rows are decoded one at a time. For a broken file, a ValueError names the
position.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from eyechart.data.forms import JSON_FORM, Form
from eyechart.data.layouts import fits_any
from eyechart.data.records import Record, UnusableError
from eyechart.exits import InputError
from eyechart.outside import bounds
from eyechart.outside.json_text import RepeatedKeyError, decode_row
from eyechart.outside.patience import Patience
from eyechart.outside.regular import UnreadableError, open_regular, read_regular
from eyechart.outside.shown import short
from eyechart.outside.unpacking import GZIP, PackedError, read_gzip
from eyechart.rows import RejectKind
from eyechart.stored import BASE64, byte_address

_BOM = b"\xef\xbb\xbf"
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw)
_ANY = msgspec.json.Decoder()
_BETWEEN = re.compile(rb"[\s,\[]*")
_LAYOUT = "expected a JSON list of rows, or one JSON row per line"


class JsonRecords:
    """The rows of a JSON file; `Records`."""

    kind = "JSON"

    def __init__(self, path: Path, name: str) -> None:
        """Split the file into rows.

        Args:
            path: the file.
            name: its path relative to the image root, for addresses of base64 images.

        Raises:
            ValueError: the file is missing, empty, broken or not a list of rows.
        """
        self.files: tuple[Path, ...] = (path,)
        self._name = name
        self._data = read_bytes(path, JSON_FORM)
        self.raw, self._start = _raw_rows(path, self._data)
        self._starts: list[int] = []

    def __len__(self) -> int:
        """Number of rows, usable or not."""
        return len(self.raw)

    def record(self, index: int) -> Record:
        """See `Records`."""
        value = decoded_row(bytes(self.raw[index]))
        if not isinstance(value, dict):
            raise UnusableError("row not an object", f"expected an object with keys, got {short(value)}")
        return value

    def locate(self, index: int, text: str) -> str:
        """See `Records`. The address is a byte range of the unpacked file."""
        if not self._starts:
            self._starts = self._positions()
        row = bytes(self.raw[index])
        for written in (text.encode(), text.encode().replace(b"/", b"\\/")):
            found = row.find(written)
            if found >= 0:
                return byte_address(self._name, BASE64, self._starts[index] + found, len(written))
        detail = "base64 text with escaped characters has no place in the file; write it without escapes"
        raise UnusableError("image as base64 text", detail, RejectKind.UNUSABLE_FILE)

    def _positions(self) -> list[int]:
        """Return the position of every row's first byte: it follows the row before, white space and a comma."""
        starts, end = [], self._start
        for raw in self.raw:
            between = _BETWEEN.match(self._data, end)
            assert between is not None
            starts.append(between.end())
            end = between.end() + len(bytes(raw))
        return starts


def decoded_row(raw: bytes) -> object:
    """Decode one row.

    Raises:
        UnusableError: it cannot be decoded.
    """
    try:
        return decode_row(raw)
    except UnicodeDecodeError as error:
        raise not_utf8(error) from error
    except RepeatedKeyError as error:
        raise key_twice(error) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise UnusableError("row not readable", str(error)) from error


def key_twice(error: RepeatedKeyError) -> UnusableError:
    """Return the error of a row with an object that has a key twice."""
    return UnusableError("key twice", str(error))


def not_utf8(error: UnicodeDecodeError) -> UnusableError:
    """Return the error of a row that is not UTF-8."""
    detail = f"byte 0x{error.object[error.start]:02x} is not valid UTF-8; save the file as UTF-8"
    return UnusableError("row not UTF-8", detail)


def _raw_rows(path: Path, data: bytes) -> tuple[list[msgspec.Raw], int]:
    """Split a data file into rows without decoding them, and return the number of bytes before the first."""
    start = 3 if data.startswith(_BOM) else 0
    text = memoryview(data)[start:] if start else data
    first = re.compile(rb"\S").search(data, start)
    if first is None:
        raise ValueError(f"{path}: the file is empty ({len(data)} bytes, nothing in it); {_LAYOUT}")
    rows = _lines(path, data, start) if first[0] == b"{" else _list(path, text, start)
    if not rows:
        raise ValueError(f"{path}: the list has zero rows; {_LAYOUT}")
    return rows, start


def read_bytes(path: Path, form: Form) -> bytes:
    """Read a data file, unpacked if it is gzipped.

    The beginning is examined first, and large files before they are parsed, because a parser makes an object of every
    value that it meets, also of those in a file of something else.

    Args:
        path: the file.
        form: what the text should be.

    Raises:
        ValueError: the file is missing, not a regular file, broken, too large, or obviously something else.
    """
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give the path of the data file itself")
    try:
        # The content decides, not the name: an uncompressed file may be named .gz, and a compressed file .json.
        data = _unpacked(path, form) if _head(path, 2) == GZIP else _plain(path, form)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such data file (the working directory is {Path.cwd()})") from error
    except PackedError as error:
        raise ValueError(f"{path}: broken gzip file ({error}); copy or download it again") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot read the data file ({error.strerror})") from error
    if len(data) > bounds.CHECKED_BYTES:
        form.require_rows(path, data)
    return data


def _head(path: Path, size: int) -> bytes:
    with open_regular(path) as file:
        return file.read(size)


def _plain(path: Path, form: Form) -> bytes:
    head = _head(path, bounds.SNIFFED_BYTES)
    if len(head) == bounds.SNIFFED_BYTES:
        form.require_beginning(path, head)
    try:
        return read_regular(path, bounds.data_bytes())
    except UnreadableError as error:
        raise InputError(
            f"{path}: {error.strerror}", f"split it into several files, or set {bounds.DATA_GB_VARIABLE} higher"
        ) from error


def _unpacked(path: Path, form: Form) -> bytes:
    parts: list[bytes] = []
    size = 0
    patience = Patience(f"unpacking {path}", "bytes")
    for part in read_gzip(path, bounds.data_bytes()):
        if not parts and len(part) >= bounds.SNIFFED_BYTES:
            form.require_beginning(path, part[: bounds.SNIFFED_BYTES])
        parts.append(part)
        size += len(part)
        patience.tick(size)
    return b"".join(parts)


def _list(path: Path, text: bytes | memoryview, start: int) -> list[msgspec.Raw]:
    try:
        return _LIST.decode(text)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: not a list of rows ({error}); {_LAYOUT}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{path}: {_syntax(error, len(text))}{_shift(start)}; {_LAYOUT}") from error


def _lines(path: Path, data: bytes, start: int) -> list[msgspec.Raw]:
    rows: list[msgspec.Raw] = []
    position = start
    for number, line in enumerate(data[start:].split(b"\n"), 1):
        if line.strip():
            try:
                rows.append(_RAW.decode(line))
            except (msgspec.DecodeError, RecursionError) as error:
                if not rows:
                    _refuse_object(path, data[start:])
                raise ValueError(
                    f"{path}: line {number} (from byte {position}): {_syntax(error, len(line))}; {_LAYOUT}"
                ) from error
        position += len(line) + 1
    if len(rows) == 1:
        _refuse_object(path, bytes(rows[0]))
    return rows


def _refuse_object(path: Path, text: bytes) -> None:
    """Raise ValueError if the text is one JSON object and not a row of any layout."""
    try:
        value = _ANY.decode(text)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict) and not fits_any(value):
        raise ValueError(f"{path}: not a list of rows but one object with the keys {short(sorted(value))}; {_LAYOUT}")


def _syntax(error: Exception, size: int) -> str:
    if "truncated" in str(error):  # msgspec has one class for all broken JSON; only the message says more
        return f"the JSON ends at byte {size}, in the middle of a value (is the file complete?)"
    return f"not valid JSON: {str(error).removeprefix('JSON is malformed: ')}"


def _shift(start: int) -> str:
    return f", counted after the byte order mark of {start} bytes" if start else ""
