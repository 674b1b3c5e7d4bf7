"""Atomic writing of files, and log files with one line of JSON per event.

While a process has a folder open for writing (`run_folder.writing`), that folder decides which of its files may be
replaced or removed, and records each of them: see `Guard`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Generic, Protocol, TypeVar

from eyechart.outside import bounds
from eyechart.outside.json_text import parse_json
from eyechart.outside.regular import read_regular
from eyechart.signals import draft_file, finished

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


DRAFT = ".draft"
_RANDOM = re.compile(r"[a-z0-9_]{8}")
"""The random part of the names that `tempfile` chooses. Drafts of earlier versions end in it, without `.draft`."""


class Guard(Protocol):
    """Decides which files of a folder may be replaced or removed, and records them."""

    @property
    def run(self) -> str | None:
        """Id of the run that writes to the folder."""

    def replacing(self, path: Path, draft: Path) -> None:
        """Called with the complete draft, directly before it is renamed to `path`; may raise a ValueError."""

    def removing(self, path: Path) -> bool:
        """Return whether `path` may be removed."""


_GUARDS: dict[Path, Guard] = {}
"""The guards of the folders that this process has open for writing, by resolved path. A forked process has none."""
os.register_at_fork(after_in_child=_GUARDS.clear)


def set_guard(folder: Path, guard: Guard | None) -> None:
    """Set the guard of a folder and everything below it, or remove it."""
    if guard is None:
        _GUARDS.pop(folder.resolve(), None)
    else:
        _GUARDS[folder.resolve()] = guard


def guard_of(path: Path) -> Guard | None:
    """Return the guard of the nearest folder that contains `path`; None if this process has not opened one."""
    if not _GUARDS:
        return None
    folder = path.parent.resolve()
    return next((_GUARDS[place] for place in (folder, *folder.parents) if place in _GUARDS), None)


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing. Even if the process is killed, it has either its old or its complete new content.

    [Contract] Until it is complete, the data is in the same folder, in a draft: see `drafts`.

    Raises:
        ValueError: `path` exists and is not a regular file, or it is not this run's to replace.
    """
    refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = draft_file(path.parent, f".{path.name}.", DRAFT)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o644)
        refuse_special(path)
        if (guard := guard_of(path)) is not None:
            guard.replacing(path, draft)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    finally:
        finished(draft)


def refuse_special(path: Path) -> None:
    """Refuse to replace what is not a regular file.

    Raises:
        ValueError: `path` is a symbolic link, a folder, a pipe, a device or a socket.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        kinds = {
            stat.S_IFLNK: "a symbolic link",
            stat.S_IFDIR: "a folder",
            stat.S_IFIFO: "a named pipe",
            stat.S_IFSOCK: "a socket",
        }
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise ValueError(f"{path}: expected a file or nothing there, got {kind}; it is not replaced: name another path")


def drafts(folder: Path, names: re.Pattern[str]) -> Iterator[Path]:
    """Yield the drafts in `folder` of files and folders whose whole names match.

    The name of a draft is a dot, the name, `.` or `-`, eight characters, and `.draft`. Drafts of earlier versions do
    not end in `.draft`. They are recognised by their permissions, which only their owner has until a draft is complete,
    so that `.config.yaml.original` is not taken for one.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        of, random = path.name.removesuffix(DRAFT)[:-9], path.name.removesuffix(DRAFT)[-9:]
        if not (of.startswith(".") and random[:1] in (".", "-") and _RANDOM.fullmatch(random[1:])):
            continue
        if not names.fullmatch(of[1:]):
            continue
        if path.name.endswith(DRAFT) or stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0:
            yield path


def sweep(folder: Path, names: re.Pattern[str]) -> None:
    """Remove the drafts that `drafts` yields. Only a process that holds the lock of the folder may call this."""
    for draft in list(drafts(folder, names)):
        if draft.is_dir() and not draft.is_symlink():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def remove(path: Path) -> bool:
    """Remove a file if the guard of its folder allows it; return whether it was removed."""
    guard = guard_of(path)
    if guard is not None and not guard.removing(path):
        return False
    path.unlink(missing_ok=True)
    return True


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file atomically, with `atomic`."""
    with atomic(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


_RUN = "run"
"""Key of the run's id in a line of a log."""


@dataclass(frozen=True)
class Log(Generic[T]):
    """A JSON Lines file in a run's folder, oldest line first; at any moment it contains only complete lines."""

    name: str
    what: str
    """The name of an item in messages, such as `an epoch record`."""
    kind: type[T]
    """The type of an item, a pydantic model or a dataclass; a line that does not match is an error."""
    step: Callable[[T], int]
    """Returns the step of an item."""

    def read(self, folder: Path) -> list[T]:
        """Return all items of the file; none if it does not exist.

        Raises:
            ValueError: a line does not have the type of an item, or the file is not a regular file or too large.
        """
        return [item for _, item in self._lines(folder)]

    def runs(self, folder: Path) -> set[str]:
        """Return the ids of the runs that wrote the file. Lines of earlier versions have none."""
        return {run for run, _ in self._lines(folder) if run}

    def _lines(self, folder: Path) -> list[tuple[str | None, T]]:
        """Return the id of the run and the item of each line."""
        path, adapter, found = folder / self.name, self._adapter(), []
        try:
            data = read_regular(path, bounds.LOG_BYTES)
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise ValueError(f"{path}: cannot read the log ({error.strerror}); move it away") from error
        lines = data.removesuffix(b"\n").split(b"\n") if data else []
        for number, line in enumerate(lines, start=1):
            try:
                tree = parse_json(line)
                run = tree.pop(_RUN, None) if isinstance(tree, dict) else None
                found.append((run, adapter.validate_python(tree)))
            except ValueError as error:
                first = " ".join(str(error).split())[:160]
                message = f"{path}, line {number}: not {self.what} ({first}); delete the file or that line"
                raise ValueError(message) from error
        return found

    def append(self, folder: Path, *items: T) -> None:
        """Append items, each with the id of the run that writes them; if there are none, nothing is changed."""
        if items:
            guard = guard_of(folder / self.name)
            run = guard.run if guard else None
            self._write(folder, [*self._lines(folder), *((run, item) for item in items)])

    def forget(self, folder: Path, after: int) -> None:
        """Drop items after step `after`: they are from an interrupted run and will be written again."""
        before = self._lines(folder)
        kept = [(run, item) for run, item in before if self.step(item) <= after]
        if len(kept) < len(before):
            self._write(folder, kept)

    def _write(self, folder: Path, items: list[tuple[str | None, T]]) -> None:
        adapter = self._adapter()
        lines = []
        for run, item in items:
            tree = adapter.dump_python(item, mode="json")
            lines.append(json.dumps({**tree, **({_RUN: run} if run else {})}) + "\n")
        write_atomic(folder / self.name, "".join(lines))

    def _adapter(self) -> TypeAdapter[T]:
        # Imported here because most callers write files and few read logs.
        from pydantic import TypeAdapter

        return TypeAdapter(self.kind)
