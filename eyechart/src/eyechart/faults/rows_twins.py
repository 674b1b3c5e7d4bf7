"""Finds held-out pictures that are also trained on as another file (for example in another format or size).

The bytes of such files differ, so comparing files does not find them. Pixels are compared only for rows that share a
caption: there are few of them, and a copied row usually keeps its caption.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F

from eyechart.faults.rows_pictures import REMOVE_COPIES, Decoded
from eyechart.faults.rows_shares import SHOWN, severity_by_share
from eyechart.faults.table import finding
from eyechart.processors.arrays import AnyArray
from eyechart.results import Finding
from eyechart.rows import Row

# size: rows compared with one row
_PER_ROW = 4
"""Largest number of training rows with the same caption that are compared with one row."""
# size: cells of an image
_CELLS = 16
"""Images are compared as means over 16 x 16 cells, which compression and resizing hardly change."""
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_MEAN, _MOST = 3.0, 32.0
"""Largest mean and largest single difference between cells, in grey levels (0 to 255), of two files of one image. For
JPEG at quality 75 and images of 64 pixels, means are 1 to 2.7 and single cells differ by up to 32. Different scenes
with the same caption differ by 43 or more in some cell."""
# exact: the level of Fisher's test, so 1% by construction
_SURE = 0.01
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_FLAT = 8.0
"""Smallest standard deviation between the cells of an image, in grey levels. A flatter image resembles any other."""


class Namesakes:
    """For each row, the training rows that have the same caption but another image file."""

    def __init__(self, train: Iterable[Row]) -> None:
        """Group training rows by caption."""
        self.by_caption: dict[str, list[Row]] = defaultdict(list)
        for row in train:
            self.by_caption[row.caption].append(row)

    def of(self, caption: str, image: str) -> list[int]:
        """Return the training rows to compare with a row of this caption and image file."""
        return [row.row for row in self.by_caption.get(caption, []) if row.image != image][:_PER_ROW]


Pictures = Sequence[tuple[Decoded, Sequence[int]]]
"""Pictures, each with the training rows to compare it with (`Namesakes`)."""


def diagnose_twins(
    held_out: Pictures, train: Pictures, decode: Callable[[int], Decoded | None], allowed: float
) -> Iterator[Finding]:
    """Yield a finding about held-out pictures that resemble a training picture of the same caption.

    Images that share a caption can be nearly equal by nature, for example drawings or product photographs. Pairs of
    training rows show how often this happens. If held-out rows resemble training rows no more often, it is not a leak.

    Args:
        held_out: decoded held-out rows.
        train: decoded training rows.
        decode: returns the picture of a training row; None if it cannot be read.
        allowed: largest share of rows for which a leak is only a warning.
    """
    found = _pairs(held_out, decode)
    if not found:
        return
    by_nature = len(_pairs(train, decode))
    first, twin = found[0]
    shown = f"row {first.row} ({first.image}) and training row {twin.row} ({twin.image}), which share a caption"
    if _more_often(len(found), len(held_out), by_nature, len(train)):
        message = (
            f"the images of {len(found)} of {len(held_out)} held-out rows are also trained on, in files that were "
            f"saved again (as JPEG, resized, recompressed), such as {shown}"
        )
        fix = REMOVE_COPIES
        severity = severity_by_share(len(found), len(held_out), allowed, sampled=True)
    else:
        message = (
            f"{len(found)} of {len(held_out)} held-out images are nearly equal to a training image, and {by_nature} of "
            f"{len(train)} training images are nearly equal to another one: {shown}"
        )
        fix = (
            "do nothing if images with the same caption are naturally this similar; otherwise, hold out whole groups "
            "of them"
        )
        severity = "note"
    yield finding(
        "split-leak",
        message,
        fix,
        severity,
        rows=len(found),
        of=len(held_out),
        training_rows_with_a_twin=by_nature,
        training_rows=len(train),
        first_rows=[one.row for one, _ in found[:SHOWN]],
    )


def _more_often(count: int, of: int, count_by_nature: int, of_nature: int) -> bool:
    """Whether one share is significantly above another, according to Fisher's exact test at level `_SURE`."""
    from scipy.stats import fisher_exact  # imported here because it takes half a second and is rarely needed

    table = [[count, of - count], [count_by_nature, of_nature - count_by_nature]]
    return bool(fisher_exact(table, alternative="greater").pvalue < _SURE)


def _pairs(pictures: Pictures, decode: Callable[[int], Decoded | None]) -> list[tuple[Decoded, Decoded]]:
    """Return the pictures that resemble one of their candidates, each with the first such candidate."""
    found = []
    for picture, others in pictures:
        for other in others:
            twin = decode(other)
            if twin is not None and _alike(picture.pixels_CHW, twin.pixels_CHW):
                found.append((picture, twin))
                break
    return found


def _alike(one_CHW: AnyArray | None, other_CHW: AnyArray | None) -> bool:
    if one_CHW is None or other_CHW is None or one_CHW.shape != other_CHW.shape:
        return False
    one, other = (F.adaptive_avg_pool2d(torch.as_tensor(p_CHW).float(), _CELLS) for p_CHW in (one_CHW, other_CHW))
    apart = (one - other).abs()
    return float(one.std()) > _FLAT and float(apart.mean()) < _MEAN and float(apart.max()) < _MOST
