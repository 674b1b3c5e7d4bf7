"""Arrays too large to keep in memory: appended to a temporary file, read back through memory mapping.

The file never has a name (or loses it at once, where the system knows no nameless files): when the process ends, be it
by SIGKILL, the system frees it, so that nothing is ever left to clean up. Mapped pages belong to the page cache; they
are not anonymous memory, and the system takes them back when it needs room.
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
            folder: where it shall lie; the nearest parent that is there, if it is not. None, or a folder that cannot
                be written to, means the system's folder for temporary files.
            what: what is written, for messages.

        Raises:
            ValueError: no temporary file can be made there.
        """
        self._folder, self._what = _writable(folder), what
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed with the object)
        except OSError as error:
            raise self._failed(error) from error
        self.size = 0
        """Bytes written."""

    def append(self, values: Tensor) -> None:
        """Append a tensor of at least one dimension.

        Writing, and not storing into a mapping, is what turns a full disk into an error here instead of a SIGBUS.

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
        """All that has been written, mapped. The mapping lives as long as the tensor, also without the spool."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        if self.size == 0:
            return torch.empty(shape, dtype=dtype)
        # A file object is as good as a name here, though numpy's stubs know it only as a name.
        mapped = np.memmap(self._file, dtype=np.uint8, mode="r+", shape=(self.size,))
        return torch.from_numpy(mapped).view(dtype).view(shape)

    def _failed(self, error: OSError) -> ValueError:
        return ValueError(
            f"{self._folder}: cannot write {self._what} to a temporary file ({error.strerror or error}); "
            "free some space there"
        )


def release_freed_memory() -> None:
    """Give memory that has been freed back to the system.

    Small things that stay between large ones that go make the C library keep most of the room of those, and ask for new
    room beside it: after 10,000 samples some 20 MB. About a millisecond; nothing happens without glibc.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def free_bytes(folder: Path) -> int:
    """Bytes that a spool for `folder` can take at most."""
    stats = os.statvfs(_writable(folder))
    return stats.f_bavail * stats.f_frsize


def _writable(folder: Path | None) -> Path:
    if folder is not None:
        place = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
        if os.access(place, os.W_OK):
            return place
    return Path(tempfile.gettempdir())
