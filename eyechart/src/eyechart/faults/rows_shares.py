"""Rules that the checks of rows share: how many faulty rows are an error, and which picture is a placeholder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from scipy.special import betaincinv

from eyechart.data.dataset import above_share
from eyechart.faults.table import Severity

# size: rows in a message
SHOWN = 3
"""Maximum number of rows that a finding names."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
ENOUGH = 20
"""Smallest number of rows of a data set for judging shares."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_TOP_IMAGE, _CAPTIONS = 0.05, 5
"""A picture is a placeholder if it is in a larger share of rows, and in more rows. COCO has five captions a picture."""


def severity_by_share(count: int, total: int, allowed: float, sampled: bool = False) -> Severity:
    """Return error if the share of rows is above the allowed one according to `above_share`, otherwise warning.

    Args:
        count: number of rows with the fault.
        total: number of rows checked.
        allowed: the allowed share, 0 to 1.
        sampled: whether only some rows were checked. An error then needs a share that is above `allowed` with 95%
            confidence (Clopper-Pearson), because one bad row of 64 does not show that more than 1% are bad.
    """
    if not total or not above_share(count, total, allowed):
        return "warning"
    surely = float(betaincinv(count, total - count + 1, 0.05)) > allowed if sampled else True
    return "error" if surely else "warning"


def is_placeholder(count: int, total: int) -> bool:
    """Whether a picture in `count` of `total` training rows is a placeholder: in more than 5% and more than 5 rows."""
    return total >= ENOUGH and count > max(_TOP_IMAGE * total, _CAPTIONS)


def placeholders_among(images: Iterable[str]) -> set[str]:
    """Return the pictures that are used by so many rows that they must be placeholders.

    Such a picture is not a leak if held-out rows show it, too.

    Args:
        images: an identity of the picture (from its file or its pixels) for each row.
    """
    counts = Counter(images)
    total = counts.total()
    return {image for image, count in counts.items() if is_placeholder(count, total)}
