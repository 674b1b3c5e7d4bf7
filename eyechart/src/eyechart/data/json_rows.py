"""Reads a JSON list or JSON Lines as records, optionally gzipped, with or without a byte order mark, with LF or CRLF.

The JSON syntax of every row is checked; rows are decoded one at a time. For a broken file, a ValueError names the
position.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from pathlib import Path

import msgspec

from eyechart.data.layouts import fits_any
from eyechart.data.records import Record, UnusableError, short
from eyechart.rows import RejectKind
from eyechart.stored import BASE64, byte_address

MAX_FILE_BYTES = 8 * 2**30
"""Largest data file after unpacking, in bytes."""

_CHUNK = 2**24
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
        self._data = read_bytes(path)
        self.raw, self._start = _raw_rows(path, self._data)
        self._starts: list[int] = []

    def __len__(self) -> int:
        """Number of rows, usable or not."""
        return len(self.raw)

    def record(self, index: int) -> Record:
        """See `Records`."""
        value = decoded_row(self.raw[index])
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


def decoded_row(raw: msgspec.Raw) -> object:
    """Decode one row.

    Raises:
        UnusableError: it cannot be decoded.
    """
    try:
        return _ANY.decode(raw)
    except UnicodeDecodeError as error:
        raise not_utf8(error) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise UnusableError("row not readable", str(error)) from error


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


def read_bytes(path: Path) -> bytes:
    """Read a data file, unpacked if it is gzipped.

    Raises:
        ValueError: the file is missing, a folder, broken or too large.
    """
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give the path of the JSON file itself")
    try:
        data = path.read_bytes()
        # Not decided by the name, because an uncompressed file may be named .gz, and a compressed file .json.
        return _unpacked(path, data) if data.startswith(b"\x1f\x8b") else data
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such data file (the working directory is {Path.cwd()})") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: broken gzip file ({error}); copy or download it again") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot read the data file ({error.strerror})") from error


def _unpacked(path: Path, data: bytes) -> bytes:
    unpacked = bytearray()
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while part := file.read(_CHUNK):
            unpacked += part
            if len(unpacked) > MAX_FILE_BYTES:
                raise ValueError(f"{path}: unpacks to more than {MAX_FILE_BYTES:,} bytes; split it into several files")
    return bytes(unpacked)


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
