"""Finds the onset: the look at which a connector begins to use the picture, as shown on the page and in the terminal.

A look is a quick measurement during training, of the gap between the losses with wrong and with right pictures. The
onset is found from the standings of the looks alone. A standing says whether the gap exceeds its margin: `costs` (it
does), `ruled out` (it does not) or `open`.

Error rate: the lower bound of each look has the confidence 1 - 0.01/(number of looks in the run). By the union bound,
nominally at most 1% of runs report a look whose true gap is not above the margin, even if the looks are dependent. If a
run is resumed with a different schedule of looks, this adds another 1%. The rate is nominal, because the bounds assume
Student's t distribution for a mean over only 16 captions.

Rates in simulations (`benchmarks/looks_error.py`): 5,000 runs of 7 looks, each of 16 captions with 7 wrong pictures
each, with a true gap exactly at the margin. Each range is from identical looks to independent looks.

    captions differ, normal                              0.1% to 0.7%
    captions differ, Student's t with 3 degrees          0.1% to 0.4%
    few captions gain much, or one picture is vivid      0.0% to 0.0%
    captions of 2 to 80 tokens                           0.4% to 2.9%
    some pictures suit every caption                     0.4% to 2.7%
    most captions gain a little, few lose much           4.4% to 27%
    the same due to one picture in 16, maybe absent      36% to 96%

With a true gap of 0, these rates are at most 0.6%, except in the last two lines, where they are up to 3.9% and 85%. An
onset is therefore only an indication. Check 1, which scores a hundred samples or more, decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from eyechart.results import Look


def onset(looks: Sequence[Look]) -> int | None:
    """Find the first look with the standing `costs` after the last look with the standing `ruled out`.

    Args:
        looks: the looks of a run, in the order of steps.

    Returns:
        The position of this look; None if there is no such look.
    """
    ruled_out = last_ruled_out(looks)
    start = 0 if ruled_out is None else ruled_out + 1
    return next((place for place in range(start, len(looks)) if looks[place].shuffled == "costs"), None)


def last_ruled_out(looks: Sequence[Look]) -> int | None:
    """Return the position of the last look that is `ruled out`; if the connector uses pictures, it began after that."""
    return next((place for place in reversed(range(len(looks))) if looks[place].shuffled == "ruled out"), None)
