"""Gzip as a stream that stops at a bound, and the names of packed formats that are not read."""

from __future__ import annotations

import errno
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from eyechart.outside import bounds
from eyechart.outside.regular import UnreadableError, open_regular

GZIP = b"\x1f\x8b"
_CHUNK, _PART = 2**16, 2**24
_ZLIB_GZIP = 31
"""zlib's number for a gzip header and checksum around the data."""
_OTHERS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
}


class PackedError(ValueError):
    """A packed file that is broken, or unpacks to more than its bound."""


def packed_with(head: bytes) -> str | None:
    """Return the name of a packed format that is not read, from the first bytes of a file; None for any other file."""
    return next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)


class GzipStream(io.RawIOBase):
    """The unpacked bytes of a gzip file of one or more members, read forwards.

    Seeking backwards starts again at the beginning. Every read checks how far the file has expanded: to at most
    `bounds.EXPANSION` times the packed bytes read so far, but always to `bounds.EXPANSION_FREE` bytes.
    """

    def __init__(self, file: io.BufferedReader, path: str | Path, limit: int | None = None) -> None:
        """Begin to unpack.

        Args:
            file: the packed file, from its beginning. It is closed with this stream.
            path: its path, for messages.
            limit: most bytes that it may unpack to; None allows any number within the expansion.
        """
        self._file, self._path, self._limit = file, path, limit
        self._begin()

    def _begin(self) -> None:
        self._file.seek(0)
        self._unpacker = zlib.decompressobj(_ZLIB_GZIP)
        self._packed = b""
        self._taken = self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True; seeking forwards unpacks what is skipped."""
        return True

    def tell(self) -> int:
        """Return the position in the unpacked bytes."""
        return self._position

    def close(self) -> None:
        """Close the packed file, too."""
        self._file.close()
        super().close()

    def readinto(self, buffer: object) -> int:
        """Fill a buffer with the next bytes, and return their number; 0 at the end.

        Raises:
            PackedError: the file is broken, or unpacks to more than its bound.
        """
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._next(len(view)) if len(view) else b""
        view[: len(data)] = data
        self._position += len(data)
        self._check()
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position counted from the beginning or from here, at most to the end; return the position."""
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence != os.SEEK_SET:
            raise io.UnsupportedOperation("a packed file has no known end")
        if offset < self._position:
            self._begin()
        skipped = bytearray(_CHUNK)
        while self._position < offset:
            if not self.readinto(memoryview(skipped)[: offset - self._position]):
                break
        return self._position

    def _next(self, most: int) -> bytes:
        """Return 1 to `most` bytes, or none at the end."""
        while True:
            if self._unpacker.eof:
                self._packed = self._unpacker.unused_data.lstrip(b"\0")
                while not self._packed and self._fill():
                    self._packed = self._packed.lstrip(b"\0")
                if not self._packed:
                    return b""
                self._unpacker = zlib.decompressobj(_ZLIB_GZIP)
            elif not self._packed and not self._fill():
                raise PackedError("it ends in the middle of the packed data")
            try:
                data = self._unpacker.decompress(self._packed, most)
            except zlib.error as error:
                raise PackedError(str(error)) from error
            self._packed = self._unpacker.unconsumed_tail
            if data:
                return data

    def _fill(self) -> bool:
        """Read more packed bytes; False at the end of the file."""
        self._packed = self._file.read(_CHUNK)
        self._taken += len(self._packed)
        return bool(self._packed)

    def _check(self) -> None:
        allowed = max(bounds.EXPANSION_FREE, bounds.EXPANSION * self._taken)
        if self._position > allowed:
            raise UnreadableError(
                errno.EFBIG,
                f"unpacks to more than {bounds.EXPANSION} times its size, which is not read; unpack it yourself if "
                "that is right",
                self._path,
            )
        if self._limit is not None and self._position > self._limit:
            raise UnreadableError(errno.EFBIG, f"unpacks to more than {self._limit:,} bytes", self._path)


class SmallReads:
    """A file for `tarfile`, which reads headers of any size at once: larger reads than `HEADER_BYTES` are refused."""

    def __init__(self, file: io.BufferedReader, path: str | Path) -> None:
        """Wrap a file; `path` is for messages."""
        self._file, self._path = file, path
        self.tell, self.close = file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes.

        Raises:
            UnreadableError: there are more than the bound.
        """
        if not 0 <= size <= bounds.HEADER_BYTES:
            raise UnreadableError(errno.EFBIG, f"it has a header of {size:,} bytes", self._path)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        return self._file.seek(offset, whence)


def open_gzip(path: str | Path, limit: int | None = None) -> io.BufferedReader:
    """Open a regular gzip file; arguments and errors while reading as for `GzipStream`.

    Raises:
        OSError: as for `open_regular`.
    """
    return io.BufferedReader(GzipStream(open_regular(path), path, limit), _CHUNK)


def read_gzip(path: str | Path, limit: int) -> Iterator[bytes]:
    """Yield the unpacked bytes of a regular gzip file in parts of up to 16 MiB.

    Raises:
        PackedError: it is broken.
        OSError: as for `open_regular`, or it unpacks to more than `limit` bytes or than its expansion allows.
    """
    with open_gzip(path, limit) as file:
        while part := file.read(_PART):
            yield part
