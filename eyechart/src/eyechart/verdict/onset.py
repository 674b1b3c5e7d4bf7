"""When a connector begins to use the picture: the one rule, for page and terminal. It only reads standings.

How often it is wrong. Each lower bound of a look is taken at 1 - 0.01/(looks of the run), so that by the union bound at
most 1% of runs, nominally, name a look whose true gap is at or below the margin, whether or not the looks of a run
resemble one another; 1% again for each other plan of looks that a run is resumed with. "Nominally", because it rests on
Student's t over 16 captions. Simulated (`benchmarks/looks_error.py`: 5,000 runs of 7 looks of 16 captions with 7 wrong
pictures each, true gap exactly at the margin), between identical looks and independent ones:

    captions differ, normal                              0.1% to 0.7%
    captions differ, Student's t with 3 degrees          0.1% to 0.4%
    few captions gain much, or one picture is vivid      0.0% to 0.0%
    captions of 2 to 80 tokens                           0.4% to 2.9%
    some pictures suit every caption                     0.4% to 2.7%
    most captions gain a little, few lose much           4.4% to 27%
    the same by one picture in 16, which may be absent   36% to 96%

At a true gap of 0 these are 0.6% at most, but for the last two: up to 3.9% and 85%. So an onset is a hint,
and check 1 with its hundred samples and more decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.results import Look


def onset(looks: Sequence[Look]) -> int | None:
    """The first look that says `costs` after the last that says `ruled out`, by the standing of its shuffled gap.

    Args:
        looks: by rising step.

    Returns:
        Its position; None if no look after the last `ruled out` is `costs`.
    """
    ruled_out = last_ruled_out(looks)
    start = 0 if ruled_out is None else ruled_out + 1
    return next((place for place in range(start, len(looks)) if looks[place].shuffled == "costs"), None)


def last_ruled_out(looks: Sequence[Look]) -> int | None:
    """Position of the last look that is `ruled out`; a connector that uses the picture has begun after it."""
    return next((place for place in reversed(range(len(looks))) if looks[place].shuffled == "ruled out"), None)
