"""What a case of `threads.py` is: one change to a healthy short training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thread_stack import Job


@dataclass(frozen=True)
class Case:
    """A public thread made again from its cause, or a set-up of the documentation with nothing wrong."""

    name: str
    how: str
    """The cause, or what the set-up is."""
    stack: str
    change: Callable[[Any], None]
    """Changes the parts of the healthy training of this stack: of a `Job`, or of a `Launch` where the stack has an
    environment of its own."""
    family: str = "qwen2_5_vl"
    thread: str = ""
    """The public thread, after its number in the order of the page; empty for healthy set-ups."""
    code: str = ""
    """The finding that has to come first; empty for healthy set-ups."""
    also: tuple[str, ...] = ()
    """Findings that name the cause as well."""
    twin: str = ""
    """The healthy set-up that it differs from by its cause alone."""


def nothing(job: Job) -> None:
    """The training as it is."""
