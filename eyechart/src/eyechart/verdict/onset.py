"""When a connector begins to look: the one rule, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.results import Look


def onset(looks: Sequence[Look], margin: float) -> int:
    """The first look from which on every gap to a wrong picture stays above the margin.

    Args:
        looks: by rising step.
        margin: nats per token, the margin of check 1 for `shuffled`.

    Returns:
        Its place; `len(looks)` where the last gap is not above the margin.
    """
    closed = [place for place, look in enumerate(looks) if look.gap_shuffled <= margin]
    return closed[-1] + 1 if closed else 0
