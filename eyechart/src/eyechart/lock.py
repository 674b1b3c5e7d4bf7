"""A lock for all who write to a folder: one process at a time, on every machine that sees the folder.

The lock is a POSIX record lock on a file in the folder. The system releases it when the process ends, also by SIGKILL.
The file then remains, but it is not locked, and the next writer removes it. Forked processes do not inherit the lock:
workers that outlive a killed run do not keep the folder locked.

On network file systems: NFS (3 with lockd, 4), SMB, Lustre mounted with `flock`, CephFS and GPFS keep the lock for all
machines. Mounted with `nolock`, `local_lock=posix` or `localflock`, and on most FUSE file systems such as sshfs, it is
kept only among processes of one machine. Where the system offers no such lock at all, the existence of the file is the
lock: a process that was killed on this machine is recognised, one that was killed on another machine is not, and the
message says which file to delete.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from eyechart.printing import err

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None  # type: ignore[assignment]  # a module, or None where there is none

LOCK = ".lock"
_NOT_OFFERED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_TAKEN = {errno.EACCES, errno.EAGAIN}
_LONGEST_COMMAND = 200
_PAUSE = 0.02
"""Seconds between two attempts to get a lock."""
_PATIENCE = 0.5
"""Seconds to wait for a lock file that has no content yet, because its holder has only just got it."""
_HELD: dict[Path, int] = {}
"""The thread that holds each lock of this process, by the resolved path of the lock file."""
_CHANGING = threading.Lock()
os.register_at_fork(after_in_child=_HELD.clear)


Release = Callable[[], None]


class LockedError(ValueError):
    """Another process, or another thread of this one, writes to the folder."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as recorded in the lock file."""

    pid: int
    host: str
    command: str
    since: str

    @classmethod
    def this(cls) -> Holder:
        """Return this process."""
        command = shlex.join(sys.argv)[:_LONGEST_COMMAND]
        return cls(os.getpid(), socket.gethostname(), command, datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended; of a process on another machine this is not known."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


@contextlib.contextmanager
def locked(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock. Blocks inside a block of the same thread for the same path are allowed and do nothing.

    Args:
        path: the lock file; its folder is made, and removed again if nothing else is in it at the end.
        what: what is locked, for messages, such as `the folder outputs/tiny`.
        wait: seconds to wait for another process to end.

    Raises:
        LockedError: another process holds the lock; the message names it.
        ValueError: something else than a regular file has the name of the lock file.
    """
    made = _make_folder(path.parent)
    key = path.parent.resolve() / path.name
    with _CHANGING:
        mine = _HELD.get(key)
        if mine is None:
            _HELD[key] = threading.get_ident()
    if mine is not None:
        if mine != threading.get_ident():
            raise LockedError(_refusal(path, what, Holder.this()))
        yield
        return
    try:
        release = _acquire(path, what, time.monotonic() + wait)
        try:
            yield
        finally:
            release()
    finally:
        _HELD.pop(key, None)
        _remove_empty(made)


def _acquire(path: Path, what: str, until: float) -> Release:
    """Return what releases the lock."""
    said = False
    while True:
        holder = None
        with contextlib.suppress(FileNotFoundError):  # the folder was removed by another process that has just ended
            got = _try(path)
            if callable(got):
                return got
            holder = got
        if holder is None and not said and time.monotonic() < until + _PATIENCE:
            pass  # the file is about to be written, or was just removed
        elif time.monotonic() >= until:
            raise LockedError(_refusal(path, what, holder))
        elif not said:
            err(f"waiting until process {_named(holder)} has written {what}")
            said = True
        time.sleep(_PAUSE)
        _make_folder(path.parent)


def _try(path: Path) -> Release | Holder | None:
    """Try once to lock the file.

    Returns:
        What releases the lock; or who holds it, None if this is not known.

    Raises:
        ValueError: there is something else than a regular file.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise ValueError(_not_a_lock(path)) from error
        raise
    kept = False
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(_not_a_lock(path))
        try:
            if not _lock(handle):
                return _read(path)
        except _NoLocksError:
            return _by_existence(path.with_name(path.name + ".exists"), path)
        # If its last holder has removed the file in the meantime, this lock is on a file that no process can open.
        if not path.exists() or not os.path.samestat(os.fstat(handle), path.lstat()):
            return None
        _write(handle)
        kept = True
    finally:
        if not kept:
            os.close(handle)

    def release() -> None:
        # The file is removed while it is locked, so that a process that has opened it finds out that it is gone.
        path.unlink(missing_ok=True)
        os.close(handle)

    return release


class _NoLocksError(Exception):
    """The file system offers no record locks."""


def _lock(handle: int) -> bool:
    """Lock an open file; return whether it is locked now."""
    if fcntl is None:
        raise _NoLocksError
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno in _NOT_OFFERED:
            raise _NoLocksError from error
        raise
    return True


def _by_existence(mark: Path, path: Path) -> Release | Holder | None:
    """Lock by making the file `mark`, which only one process can do; the mark of a dead process is moved away first."""
    try:
        handle = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        holder = _read(mark)
        if holder is None or not holder.is_dead:
            return holder
        # Of several processes that find it, one can move it.
        away = mark.with_name(f"{mark.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            mark.rename(away)
            away.unlink()
        return None
    _write(handle)
    os.close(handle)

    def release() -> None:
        mark.unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    return release


def _write(handle: int) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, (json.dumps(asdict(Holder.this())) + "\n").encode(), 0)


def _read(path: Path) -> Holder | None:
    """Return the process that a lock file records; None if it cannot be read, for example because it is being made."""
    try:
        with path.open("rb") as file:
            return Holder(**json.loads(file.read(4096)))
    except (OSError, ValueError, TypeError):
        return None


def _named(holder: Holder | None) -> str:
    if holder is None:
        return "(unknown)"
    return f"{holder.pid} on {holder.host} (`{' '.join(holder.command.split())}`, since {holder.since})"


def _refusal(path: Path, what: str, holder: Holder | None) -> str:
    mark = path.with_name(path.name + ".exists")
    by_hand = f"; if that process has ended, delete {mark}" if mark.exists() else ""
    return (
        f"{what} is being written by process {_named(holder)}: two would mix their files; wait until it has ended, "
        f"or choose another folder{by_hand}"
    )


def _not_a_lock(path: Path) -> str:
    return f"{path}: expected a lock file or nothing there, got something else; remove it"


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder with its parents; return those that did not exist, innermost first."""
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return absent


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # not empty, or used by another process
            return
