"""Opening and reading files: only regular ones, without waiting for a writer, and never more than a bound."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

_CHUNK = 2**24
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


_MODEL_ENDINGS = (".json", ".safetensors", ".model", ".txt", ".jinja", ".py", ".bin")
"""Endings of the files that libraries open in a model folder."""


class UnreadableError(OSError, ValueError):
    """A file that is not read because of what it is or how large it is; `strerror` is the reason in words.

    It is an OSError, like that of a missing file, and a ValueError, because it is bad input.
    """

    def __init__(self, number: int, reason: str, path: str | Path) -> None:
        """Store the error number, the `reason` and the `path`."""
        super().__init__(number, reason, str(path))

    def __str__(self) -> str:
        """One line for the user: path and reason."""
        return f"{self.filename}: {self.strerror}"


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a regular file for reading in binary mode. Links are followed.

    Neither a named pipe without a writer nor a device can block this: the file is opened in the non-blocking mode, and
    its kind is checked before and after opening.

    Raises:
        UnreadableError: it is a named pipe, a device or a socket.
        IsADirectoryError: it is a folder.
        OSError: it is missing or cannot be opened.
    """
    _require_regular(os.stat(path), path)  # noqa: PTH116 - also for strings
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_regular(os.fstat(handle), path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def require_regular(path: str | Path) -> None:
    """Check that a path names a regular file, without opening it, for libraries that open it themselves.

    Raises:
        OSError: as for `open_regular`, except that permissions are not checked.
    """
    _require_regular(os.stat(path), path)  # noqa: PTH116


def _require_regular(facts: os.stat_result, path: str | Path) -> None:
    kind = stat.S_IFMT(facts.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise UnreadableError(errno.EINVAL, f"expected a regular file, got {_KINDS.get(kind, 'another kind')}", path)


def read_regular(path: str | Path, limit: int) -> bytes:
    """Read a whole regular file of at most `limit` bytes.

    Raises:
        UnreadableError: it is not a regular file, or it is larger; a larger file is not read.
        OSError: it is missing or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        _require_size(size, limit, path)
        data = file.read(size + 1)
        if len(data) <= size:
            return data
        # A file of the kernel has no size, and another file may have grown.
        parts, total = [data], len(data)
        while part := file.read(_CHUNK):
            parts.append(part)
            total += len(part)
            _require_size(total, limit, path)
        return b"".join(parts)


def _require_size(size: int, limit: int, path: str | Path) -> None:
    if size > limit:
        raise UnreadableError(errno.EFBIG, f"{size:,} bytes, at most {limit:,} are read", path)


def read_text(path: str | Path, limit: int) -> str:
    """Read a whole regular file of at most `limit` bytes as UTF-8, without its byte order mark.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
        OSError: as for `read_regular`.
    """
    return read_regular(path, limit).decode("utf-8-sig")


def refuse_odd_folder(folder: str | Path, largest_json: int) -> None:
    """Check the files of a model folder before a library opens them; what is not a folder is not checked.

    Raises:
        UnreadableError: a file is a named pipe, a device or a socket, or a JSON file is larger than `largest_json`.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            facts = entry.stat()
        except OSError:  # a broken link, which the library reports
            continue
        if not stat.S_ISDIR(facts.st_mode) and entry.name.endswith(_MODEL_ENDINGS):
            _require_regular(facts, entry.path)
            if entry.name.endswith(".json"):
                _require_size(facts.st_size, largest_json, entry.path)
