"""Lines of progress while a large file is read, so that no reading is silent for more than five seconds."""

from __future__ import annotations

import os
import time

from eyechart.progress import say

_SECONDS = 4.0
"""Seconds between two lines."""


class Patience:
    """Says how much has been read, if it takes long."""

    def __init__(self, what: str, unit: str) -> None:
        """Begin to count the time.

        Args:
            what: what is done, such as `reading rows.tar`.
            unit: what is counted, in the plural.
        """
        self._what, self._unit = what, unit
        self._said = time.monotonic()

    def tick(self, count: int) -> None:
        """Write a line if the last one was long ago, on the first rank only."""
        now = time.monotonic()
        if now - self._said >= _SECONDS:
            self._said = now
            if os.environ.get("RANK", "0") == "0":
                say(f"{self._what}: {count:,} {self._unit} so far")
