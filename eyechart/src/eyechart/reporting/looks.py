"""Writes sentences about looks (quick measurements during training) for the terminal and the page.

What the sentences claim depends only on standings: whether a gap is above its margin, not above it, or undecided.
"""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.results import Look
from eyechart.verdict.onset import last_ruled_out, onset


def look_line(look: Look) -> str:
    """Return the line that a training run prints about a look."""
    share = "" if look.r_at_1 is None else f" | own picture first of {look.k}: {look.r_at_1:.0%}"
    zeros = "" if look.gap_zero is None else f" | zeros {look.gap_zero:+.3f} {look.zero}"
    return (
        f"look at step {look.step} | loss {look.correct:.3f} | wrong picture {look.gap_shuffled:+.3f}{_bounds(look)} "
        f"{look.shuffled}{zeros}{share}"
    )


def read_onset(looks: Sequence[Look]) -> str:
    """Return a sentence that states when the connector began to use the picture; empty if there are no looks."""
    if not looks:
        return ""
    last = looks[-1]
    seen = f"at step {last.step:,} a wrong picture costs {last.gap_shuffled:+.3f}{_bounds(last)} nats per token"
    if last.gap_zero is not None:
        seen += f", zeros cost {last.gap_zero:+.3f}"
    if last.r_at_1 is not None:
        seen += f", and {last.r_at_1:.0%} of captions are likeliest with their own among {last.k} pictures"
        seen += f" (guessing: {1 / last.k:.0%})"
    first, before = onset(looks), last_ruled_out(looks)
    if first is None:
        if last.shuffled == "ruled out":
            return f"The connector had not begun to use the picture: {seen}."
        since = "" if before is None else f"; at step {looks[before].step:,} it had not begun to use it"
        return f"Whether the connector uses the picture is open: {seen}{since}."
    since = f"by step {looks[first].step:,}"
    if before is not None:
        since = f"between step {looks[before].step:,} and step {looks[first].step:,}"
    return f"The connector began to use the picture {since}; {seen}."


def _bounds(look: Look) -> str:
    if look.lower_shuffled is None or look.upper_shuffled is None:
        return ""
    return f" ({look.lower_shuffled:+.3f} to {look.upper_shuffled:+.3f})"
