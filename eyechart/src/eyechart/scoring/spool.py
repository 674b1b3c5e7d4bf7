"""Stores arrays that are too large for memory: appends them to a temporary file, and reads them by memory mapping.

The file has no name; on systems without unnamed files, its name is deleted immediately. When the process ends, even by
SIGKILL, the operating system deletes the file, so no cleanup is needed. Mapped pages belong to the page cache and are
not anonymous memory, so the system can reclaim them when it needs memory.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Spool:
    """An append-only temporary file of numbers."""

    def __init__(self, folder: Path | None, what: str) -> None:
        """Open the file.

        Args:
            folder: the folder for the file; if it does not exist, its nearest existing parent is used. If the folder is
                None or cannot be written to, the system's folder for temporary files is used.
            what: the name of the content, for error messages.

        Raises:
            ValueError: no temporary file can be created in the folder.
        """
        self._folder, self._what = _writable(folder), what
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed with the object)
        except OSError as error:
            raise self._failed(error) from error
        self.size = 0
        """The number of bytes written."""

    def append(self, values: Tensor) -> None:
        """Append a tensor of at least one dimension.

        The tensor is written to the file and not to the memory mapping, so that a full disk raises an error instead of
        SIGBUS.

        Raises:
            ValueError: the disk is full.
        """
        data = values.detach().cpu().contiguous().view(torch.uint8).numpy()
        try:
            self._file.write(data.data)
        except OSError as error:
            raise self._failed(error) from error
        self.size += data.size

    def tensor(self, dtype: torch.dtype, *shape: int) -> Tensor:
        """Return everything written so far as one memory-mapped tensor.

        The mapping is valid as long as the tensor exists.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        if self.size == 0:
            return torch.empty(shape, dtype=dtype)
        # NumPy accepts a file object here, although its type stubs only allow a file name.
        mapped = np.memmap(self._file, dtype=np.uint8, mode="r+", shape=(self.size,))
        return torch.from_numpy(mapped).view(dtype).view(shape)

    def _failed(self, error: OSError) -> ValueError:
        return ValueError(
            f"{self._folder}: cannot write {self._what} to a temporary file ({error.strerror or error}); "
            "free some space there"
        )


def release_freed_memory() -> None:
    """Return freed memory to the operating system.

    If small objects remain between large objects that were freed, the C library keeps most of the freed memory and
    allocates more. After 10,000 samples, this is about 20 MB. The call takes about a millisecond; without glibc it does
    nothing.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def free_bytes(folder: Path) -> int:
    """Return the maximum number of bytes that a `Spool` for `folder` can store."""
    stats = os.statvfs(_writable(folder))
    return stats.f_bavail * stats.f_frsize


def _writable(folder: Path | None) -> Path:
    if folder is not None:
        place = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
        if os.access(place, os.W_OK):
            return place
    return Path(tempfile.gettempdir())
