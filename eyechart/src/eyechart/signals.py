"""What INT, TERM and HUP do to a command, from its first line to the end of its process.

One exception stops the command wherever it is, as Ctrl-C does in Python. Files and folders that are not complete are
registered here as soon as they are made, so that they are removed whenever the exception arrives.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Action = Callable[[int], None]

_drafts: set[Path] = set()
_held: list[int] = []
"""Signals that arrived while `_holding` was above 0."""
_holding = 0


def stop(number: int) -> None:
    """Stop the command.

    Raises:
        KeyboardInterrupt: always; its text names the signal, unless it is that of Ctrl-C.
    """
    raise KeyboardInterrupt(*([] if number == signal.SIGINT else [signal.Signals(number).name]))


def ignore(number: int) -> None:
    """Do nothing; for a moment that is over soon."""


@contextlib.contextmanager
def on_signal(action: Action) -> Iterator[None]:
    """Call `action` with the number of the signal if INT, TERM or HUP arrives inside the block.

    A signal that the process was started to ignore stays ignored (`nohup`, a shell's background jobs). In a forked
    process, such as a reader of images, INT and HUP do nothing, because its parent decides, and TERM ends it. In a
    thread other than the main one, where Python cannot handle signals, nothing changes.
    """
    previous = from_now_on(action)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def from_now_on(action: Action) -> dict[int, Any]:
    """Do the same as `on_signal`, without an end; return the handlers before, by signal."""
    owner = os.getpid()

    def handler(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            _in_child(number)
        elif _holding:
            _held.append(number)
        else:
            action(number)

    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)
    return previous


def _in_child(number: int) -> None:
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def _hold() -> Iterator[None]:
    """Let signals wait for the end of the block, which has to be short."""
    global _holding
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1
        if not _holding:
            while _held:
                os.kill(os.getpid(), _held.pop())


def draft_file(folder: Path, prefix: str, suffix: str = "") -> tuple[int, Path]:
    """Make an empty file that is removed if the command is stopped; return its descriptor and its path."""
    with _hold():
        handle, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=suffix)
        _drafts.add(Path(name))
    return handle, Path(name)


def draft_folder(folder: Path, prefix: str, suffix: str = "") -> Path:
    """Make an empty folder that is removed if the command is stopped."""
    with _hold():
        path = Path(tempfile.mkdtemp(dir=folder, prefix=prefix, suffix=suffix))
        _drafts.add(path)
    return path


def finished(draft: Path) -> None:
    """Record that a draft was renamed or removed."""
    _drafts.discard(draft)


def discard_drafts() -> None:
    """Remove the drafts of this process that are not finished."""
    while _drafts:
        draft = _drafts.pop()
        if draft.is_dir() and not draft.is_symlink():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                draft.unlink()


os.register_at_fork(after_in_child=_drafts.clear)  # the drafts of a process are its own
