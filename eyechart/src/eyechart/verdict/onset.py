"""Finds the look at which a connector begins to use the picture, from standings alone, for page and terminal.

Error rate: the lower bound of each look has the confidence 1 - 0.01/(looks of the run). By the union bound, nominally
at most 1% of runs report a look whose true gap is not above the margin, even if the looks are dependent. If a run is
resumed with another plan of looks, another 1% is added. The rate is nominal because the bounds use Student's t over 16
captions. Rates in simulations (`benchmarks/looks_error.py`: 5,000 runs of 7 looks of 16 captions with 7 wrong pictures
each, with the true gap exactly at the margin), from identical looks to independent looks:

    captions differ, normal                              0.1% to 0.7%
    captions differ, Student's t with 3 degrees          0.1% to 0.4%
    few captions gain much, or one picture is vivid      0.0% to 0.0%
    captions of 2 to 80 tokens                           0.4% to 2.9%
    some pictures suit every caption                     0.4% to 2.7%
    most captions gain a little, few lose much           4.4% to 27%
    the same due to one picture in 16, maybe absent      36% to 96%

With a true gap of 0, these rates are at most 0.6%, except in the last two lines, where they are up to 3.9% and 85%. An
onset is therefore only a hint; check 1, which has a hundred samples or more, decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.results import Look


def onset(looks: Sequence[Look]) -> int | None:
    """Return the first look whose shuffled gap has the standing `costs`, after the last with the standing `ruled out`.

    Args:
        looks: looks in the order of steps.

    Returns:
        The position of the look; None if no look after the last `ruled out` is `costs`.
    """
    ruled_out = last_ruled_out(looks)
    start = 0 if ruled_out is None else ruled_out + 1
    return next((place for place in range(start, len(looks)) if looks[place].shuffled == "costs"), None)


def last_ruled_out(looks: Sequence[Look]) -> int | None:
    """Return the position of the last look that is `ruled out`; a connector that uses pictures began after it."""
    return next((place for place in reversed(range(len(looks))) if looks[place].shuffled == "ruled out"), None)
