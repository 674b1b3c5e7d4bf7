"""Progress bars with one style, and without output if there is no terminal."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from tqdm import tqdm

_LOG_SECONDS = 30.0


class Bar(Protocol):
    """The two methods of a tqdm bar that are used."""

    def update(self, n: int) -> object:
        """Count `n` more."""
        ...

    def close(self) -> object:
        """End the bar."""
        ...


class SilentBar:
    """A bar that shows nothing."""

    def update(self, n: int) -> None:
        """Count nothing."""

    def close(self) -> None:
        """End nothing."""


def progress_bar(total: int, what: str, unit: str, initial: int = 0, hidden: bool = False) -> tqdm[Any]:
    """A bar on standard error that vanishes when it is done.

    Args:
        total: amount of work.
        what: what is being done.
        unit: of `total`, in the singular.
        initial: amount done before.
        hidden: show nothing (ranks other than the first).

    Into a file or pipe it prints a line every 30 seconds at most: a log should show progress without animation.
    """
    terminal = sys.stderr.isatty()
    bar: tqdm[Any] = tqdm(
        total=total,
        initial=initial,
        desc=what,
        unit=unit,
        disable=hidden,
        leave=False,
        mininterval=0.1 if terminal else _LOG_SECONDS,
        maxinterval=10.0 if terminal else _LOG_SECONDS,
        delay=0.0 if terminal else _LOG_SECONDS,
    )
    return bar


def say(line: str) -> None:
    """Write a line to standard error while a bar may be there: above it on a terminal, unchanged in a log."""
    if sys.stderr.isatty():
        tqdm.write(line, file=sys.stderr)
    else:
        # tqdm.write would draw the bar again after it, on a separate line.
        sys.stderr.write(f"{line}\n")


def duration(seconds: float) -> str:
    """Readable duration: `1 h 5 min`, `2 min 10 s`, `9 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
