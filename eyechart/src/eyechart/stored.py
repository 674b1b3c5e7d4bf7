"""Addresses of images inside files, and functions that read these images one at a time.

An image inside a table, an archive or a JSON file has an address, which is used like the path of an image file:

    shards/0.tar::0000.jpg@1536+20480       20,480 bytes from byte 1,536 of the file, unpacked if it is gzipped
    rows.jsonl::base64@212+64000            the same, as base64 text
    train.parquet::images/0@12              row 12, column `images`, item 0: bytes, or a struct with `bytes`

Rows contain addresses and no image bytes, so memory does not grow with the images. Each read opens the file again. To
read an image from a Parquet file, its whole row group is read, and the last few row groups are cached; row groups of
about 100 rows are fast.
"""

from __future__ import annotations

import base64
import binascii
import errno
import functools
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyechart.outside import bounds
from eyechart.outside.regular import UnreadableError, open_regular, read_regular, require_regular
from eyechart.outside.unpacking import GZIP, open_gzip

MARK = "::"
"""Separates the two parts of an address: the file, and the place in it."""
BASE64 = "base64"
"""The label of a byte range that contains base64 text."""
MAX_BYTES = 256 * 2**20
"""Largest encoded image that is read, in bytes."""
MAX_GROUP_BYTES = 4 * 2**30
"""Largest column of one row group that is read, in bytes after decompression as the file states them."""

_ADDRESS = re.compile(r"(?P<file>.+?)::(?P<label>.*)@(?P<start>\d+)(?:\+(?P<length>\d+))?", re.DOTALL)


class StoredImageError(OSError):
    """An image inside a file that cannot be read."""


@dataclass(frozen=True)
class Place:
    """The parts of an address."""

    file: Path
    label: str
    """Name of an archive member, `base64`, or a JSON pointer without its first slash into a row of a table."""
    start: int
    """First byte, or the row of a table."""
    length: int | None
    """Number of bytes; None for a row of a table."""


def byte_address(file: str, label: str, start: int, length: int) -> str:
    """Return the address of `length` bytes from byte `start` of a file."""
    return f"{file}{MARK}{label}@{start}+{length}"


def cell_address(file: str, pointer: str, row: int) -> str:
    """Return the address of a cell; `pointer` is the column, followed by keys of nested values, separated by `/`."""
    return f"{file}{MARK}{pointer}@{row}"


def place_of(image: str | Path) -> Place | None:
    """Return the parts of an address; None for the path of an image file."""
    text = str(image)
    found = _ADDRESS.fullmatch(text) if MARK in text else None
    if found is None:
        return None
    length = found["length"]
    return Place(Path(found["file"]), found["label"], int(found["start"]), None if length is None else int(length))


def file_of(image: str | Path) -> Path:
    """Return the file that an image is in: the image file itself, or the file of an address."""
    place = place_of(image)
    return Path(image) if place is None else place.file


def opened(image: str | Path) -> Path | io.BytesIO:
    """Return what `PIL.Image.open` takes: the path of an image file, or the bytes of an image inside a file.

    Raises:
        OSError: the image inside the file cannot be read, or the path names no regular file.
    """
    place = place_of(image)
    if place is None:
        require_regular(image)
        return Path(image)
    return io.BytesIO(_read(place))


def image_bytes(image: str | Path, limit: int | None = None) -> bytes:
    """Read an encoded image, or its first `limit` bytes.

    Raises:
        OSError: the file is missing or cannot be read, or the address is not in it.
    """
    place = place_of(image)
    if place is not None:
        return _read(place)[:limit]
    if limit is None:
        return read_regular(image, bounds.IMAGE_BYTES)
    with open_regular(image) as file:
        return file.read(limit)


def image_size(image: str | Path) -> int:
    """Return the size of an encoded image in bytes; 0 for an empty cell of a table.

    Raises:
        OSError: as for `image_bytes`.
    """
    place = place_of(image)
    if place is None:
        return Path(image).stat().st_size
    if place.length is None:
        return len(_read(place))
    place.file.stat()
    return place.length // 4 * 3 if place.label == BASE64 else place.length


def in_order(images: Iterable[str]) -> list[str]:
    """Sort images so that those inside one file are read from its beginning to its end."""

    def key(image: str) -> tuple[str, int, str]:
        place = place_of(image)
        return (image, 0, "") if place is None else (str(place.file), place.start, place.label)

    return sorted(images, key=key)


def _read(place: Place) -> bytes:
    if place.length is None:
        return _cell(place)
    if place.length > MAX_BYTES:
        raise StoredImageError(f"{place.length:,} bytes, at most {MAX_BYTES:,} are read")
    with open_regular(place.file) as file:
        if file.read(2) == GZIP:
            with open_gzip(place.file) as unpacked:
                unpacked.seek(place.start)
                data = unpacked.read(place.length)
        else:
            file.seek(place.start)
            data = file.read(place.length)
    if len(data) < place.length:
        raise StoredImageError(f"{place.file} ends before byte {place.start + place.length}; was it changed?")
    return decoded(data) if place.label == BASE64 else data


def decoded(text: bytes) -> bytes:
    """Decode base64 text; the escapes of slashes in JSON and line breaks are removed first.

    Raises:
        OSError: the text is not base64.
    """
    try:
        return base64.b64decode(text.replace(b"\\/", b"/").replace(b"\\n", b""), validate=True)
    except binascii.Error as error:
        raise StoredImageError(f"not base64 ({error})") from error


def _cell(place: Place) -> bytes:
    stamp = stamp_of(place.file)
    column, *way = (part.replace("~1", "/").replace("~0", "~") for part in place.label.split("/"))
    try:
        table, first = _rows_around(place.file, stamp, place.start, column)
        value: Any = table.column(column)[place.start - first].as_py()
        for step in way:
            value = value[int(step)] if isinstance(value, list) else value[step]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise StoredImageError(f"{place.file} has no image at {place.label} of row {place.start}") from error
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise StoredImageError(f"{place.file}, row {place.start}: {place.label} contains no bytes")
    if len(data) > MAX_BYTES:
        raise StoredImageError(f"{len(data):,} bytes, at most {MAX_BYTES:,} are read")
    return data


def _rows_around(file: Path, stamp: tuple[int, int], row: int, column: str) -> tuple[Any, int]:
    """Return the part of a table's column that contains this row, and the first row of the part."""
    with open_regular(file) as opened_file:
        if opened_file.read(4) != b"PAR1":
            return arrow_table(str(file), stamp), 0
    metadata, first = _metadata(str(file), stamp), 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if row < first + rows:
            return _row_group(str(file), stamp, group, column), first
        first += rows
    raise IndexError(row)


@functools.lru_cache(maxsize=64)
def _metadata(file: str, stamp: tuple[int, int]) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(file)


@functools.lru_cache(maxsize=4)
def _row_group(file: str, stamp: tuple[int, int], group: int, column: str) -> Any:
    import pyarrow.parquet

    about = _metadata(file, stamp).row_group(group)
    leaves = (about.column(leaf) for leaf in range(about.num_columns))
    size = sum(leaf.total_uncompressed_size for leaf in leaves if f"{leaf.path_in_schema}.".startswith(f"{column}."))
    if size > MAX_GROUP_BYTES:
        raise StoredImageError(f"{file}: row group {group} has {size:,} bytes; write it with smaller row groups")
    with pyarrow.parquet.ParquetFile(file) as parquet:
        return parquet.read_row_group(group, columns=[column], use_threads=False)


@functools.lru_cache(maxsize=64)
def arrow_table(file: str, stamp: tuple[int, int]) -> Any:
    """Return an Arrow file (stream or file format) as a `pyarrow.Table`, mapped and not loaded into memory.

    Lengths and texts are checked once, because values of a damaged file would end the process.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged.
    """
    import pyarrow as pa

    require_regular(file)
    source = pa.memory_map(file)
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
    batches, before = [], pa.total_allocated_bytes()
    for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
        batches.append(batch)
        # Mapped batches take no memory; compressed ones are unpacked into it.
        require_table_size(pa.total_allocated_bytes() - before, file)
    table = pa.Table.from_batches(batches, reader.schema)
    table.validate(full=True)
    return table


def require_table_size(size: int, file: str | Path) -> None:
    """Check that a table does not take more memory than `bounds.table_bytes` allows.

    Raises:
        UnreadableError: it does.
    """
    limit = bounds.table_bytes()
    if size > limit:
        reason = f"its table takes more than {limit:,} bytes; split it, or set {bounds.DATA_GB_VARIABLE} higher"
        raise UnreadableError(errno.EFBIG, reason, file)


def stamp_of(file: Path) -> tuple[int, int]:
    """Return modification time and size of a file, to detect changes of its content."""
    facts = file.stat()
    return facts.st_mtime_ns, facts.st_size
