"""Atomic writing of files, and log files with one line of JSON per event."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Generic, TypeVar

from eyechart.outside import bounds
from eyechart.outside.json_text import parse_json
from eyechart.outside.regular import read_regular

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing. Even if the process is killed, it has either its old or its complete new content.

    [Contract] Until it is complete, the data is in the same folder, in a file whose name begins with a dot and `path`'s
    name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file atomically, with `atomic`."""
    with atomic(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


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
                found.append(adapter.validate_python(parse_json(line)))
            except ValueError as error:
                first = " ".join(str(error).split())[:160]
                message = f"{path}, line {number}: not {self.what} ({first}); delete the file or that line"
                raise ValueError(message) from error
        return found

    def append(self, folder: Path, *items: T) -> None:
        """Append items; if there are none, the file is not changed."""
        if items:
            self._write(folder, [*self.read(folder), *items])

    def forget(self, folder: Path, after: int) -> None:
        """Drop items after step `after`: they are from an interrupted run and will be written again."""
        before = self.read(folder)
        kept = [item for item in before if self.step(item) <= after]
        if len(kept) < len(before):
            self._write(folder, kept)

    def _write(self, folder: Path, items: list[T]) -> None:
        adapter = self._adapter()
        lines = [json.dumps(adapter.dump_python(item, mode="json")) + "\n" for item in items]
        write_atomic(folder / self.name, "".join(lines))

    def _adapter(self) -> TypeAdapter[T]:
        # Imported here because most callers write files and few read logs.
        from pydantic import TypeAdapter

        return TypeAdapter(self.kind)
