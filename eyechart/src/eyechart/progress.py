"""Progress bars in one style; without a terminal, they print a line from time to time instead."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from tqdm import tqdm

from eyechart.plain import one_line
from eyechart.printing import err, indented

_LOG_SECONDS = 30.0


class Bar(Protocol):
    """The two methods of a tqdm bar that are used."""

    def update(self, n: int) -> object:
        """Advance the bar by `n`."""
        ...

    def close(self) -> object:
        """Close the bar."""
        ...


class SilentBar:
    """A bar that shows nothing."""

    def update(self, n: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing, because there is no bar to close."""


def progress_bar(total: int, what: str, unit: str, initial: int = 0, hidden: bool = False) -> tqdm[Any]:
    """Make a bar on standard error that disappears when the work is done.

    Args:
        total: amount of work.
        what: name of the work.
        unit: unit of `total`, in the singular.
        initial: amount of work already done.
        hidden: whether to show nothing, as on ranks other than the first.

    In a file or pipe, it prints at most one line every 30 seconds, so that a log shows progress without animation.
    """
    terminal = sys.stderr.isatty()
    bar: tqdm[Any] = tqdm(
        total=total,
        initial=initial,
        desc=one_line(what),
        unit=unit,
        disable=hidden,
        leave=False,
        mininterval=0.1 if terminal else _LOG_SECONDS,
        maxinterval=10.0 if terminal else _LOG_SECONDS,
        delay=0.0 if terminal else _LOG_SECONDS,
    )
    return bar


def say(line: str) -> None:
    """Write a line to standard error while a bar may be shown: above the bar on a terminal, unchanged in a log."""
    if sys.stderr.isatty():
        tqdm.write(indented(line), file=sys.stderr)
    else:
        err(line)  # tqdm.write would draw the bar again after the line, on a separate line


def duration(seconds: float) -> str:
    """Return a readable duration, such as `1 h 5 min`, `2 min 10 s` or `9 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
