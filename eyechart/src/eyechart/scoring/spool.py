"""Stores arrays that are too large for memory: they are appended to a temporary file and read by memory mapping.

The file has no name (or loses it immediately, on systems without unnamed files). When the process ends, even by
SIGKILL, the system deletes the file, so nothing is left to clean up. Mapped pages belong to the page cache and are not
anonymous memory, so the system can reclaim them when it needs memory.
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
            folder: folder of the file, or its nearest existing parent if it does not exist. If it is None or cannot be
                written to, the system's folder for temporary files is used.
            what: name of the content, for messages.

        Raises:
            ValueError: no temporary file can be made there.
        """
        self._folder, self._what = _writable(folder), what
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed with the object)
        except OSError as error:
            raise self._failed(error) from error
        self.size = 0
        """Number of bytes written."""

    def append(self, values: Tensor) -> None:
        """Append a tensor of at least one dimension.

        It is written to the file and not stored into a mapping, so that a full disk gives an error and not a SIGBUS.

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
        """Return everything written so far, mapped. The mapping is valid as long as the tensor exists."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        if self.size == 0:
            return torch.empty(shape, dtype=dtype)
        # numpy accepts a file object here, although its stubs only allow a name.
        mapped = np.memmap(self._file, dtype=np.uint8, mode="r+", shape=(self.size,))
        return torch.from_numpy(mapped).view(dtype).view(shape)

    def _failed(self, error: OSError) -> ValueError:
        return ValueError(
            f"{self._folder}: cannot write {self._what} to a temporary file ({error.strerror or error}); "
            "free some space there"
        )


def release_freed_memory() -> None:
    """Return freed memory to the system.

    If small objects remain between large objects that were freed, the C library keeps most of the freed memory and
    allocates more: about 20 MB after 10,000 samples. The call takes about a millisecond; without glibc it does nothing.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def free_bytes(folder: Path) -> int:
    """Return the maximum number of bytes that a spool for `folder` can store."""
    stats = os.statvfs(_writable(folder))
    return stats.f_bavail * stats.f_frsize


def _writable(folder: Path | None) -> Path:
    if folder is not None:
        place = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
        if os.access(place, os.W_OK):
            return place
    return Path(tempfile.gettempdir())
