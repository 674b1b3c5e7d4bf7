"""Finds held-out images that are also used in training as another file (for example in another format or size).

The bytes of such files differ, so comparing files does not find them. Pixels are compared only for rows that share a
caption: there are few of them, and a copied row usually keeps its caption.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from eyechart.data.dataset import Dataset
from eyechart.faults.table import agree, finding
from eyechart.results import Finding
from eyechart.seam import Sample
from qwen3_vlm.preflight.corpus import shown_by_many
from qwen3_vlm.preflight.rows import SHOWN, RawRow, by_share
from qwen3_vlm.preflight.text import Row

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


@dataclass(frozen=True)
class Candidates:
    """Training rows that have the same caption as another row but another image file."""

    held_out: dict[int, list[int]]
    """The training rows for each held-out row."""
    train: dict[int, list[int]]
    """The other training rows for each training row. They show how similar images with one caption are by nature."""


def same_captions(train: Mapping[int, RawRow], held_out: Iterable[RawRow], chosen: Iterable[int]) -> Candidates:
    """Find the rows to compare.

    Args:
        train: training rows.
        held_out: held-out rows.
        chosen: training rows that are compared with other training rows.
    """
    by_caption: dict[str, list[RawRow]] = defaultdict(list)
    for row in train.values():
        by_caption[row.caption].append(row)

    def others(row: RawRow) -> list[int]:
        return [other.row for other in by_caption.get(row.caption, []) if other.image != row.image][:_PER_ROW]

    own = {row: others(train[row]) for row in chosen if row in train}
    return Candidates({row.row: others(row) for row in held_out}, own)


def twin_findings(
    rows: Mapping[str, list[Row]], candidates: Candidates, train: Dataset, allowed: float
) -> list[Finding]:
    """Decode the candidates and compare them; rows that cannot be read are counted elsewhere.

    Images that share a caption can be nearly equal by nature, for example drawings or product photographs. Pairs of
    training rows show how often this happens. If held-out rows resemble training rows no more often, it is not a leak.

    Args:
        rows: rows that were read, by side of the split.
        candidates: the result of `same_captions`.
        train: the training data.
        allowed: largest share of rows for which a leak is only a warning.
    """
    held_out = rows["eval"]
    found = _pairs(held_out, candidates.held_out, train)
    if not found:
        return []
    by_nature = len(_pairs(rows["train"], candidates.train, train))
    first, twin = found[0]
    shown = (
        f"row {first.sample.row} ({first.sample.image}) and training row {twin.row} ({twin.image}), which share a "
        "caption"
    )
    evidence: dict[str, Any] = {
        "rows": len(found),
        "of": len(held_out),
        "training_rows_with_a_twin": by_nature,
        "training_rows": len(rows["train"]),
        "first_rows": [row.sample.row for row, _ in found[:SHOWN]],
    }
    if not _more_often(len(found), len(held_out), by_nature, len(rows["train"])):
        return [
            finding(
                "split-leak",
                f"{len(found)} of {len(held_out)} held-out images are nearly equal to a training image, and "
                f"{by_nature} of {len(rows['train'])} training images are nearly equal to another one: {shown}",
                "do nothing if images with the same caption are naturally this similar; otherwise, hold out whole "
                "groups of them",
                "note",
                **evidence,
            )
        ]
    return [
        finding(
            "split-leak",
            f"the images of {len(found)} of {len(held_out)} held-out rows are also trained on, in files that were "
            f"saved again (as JPEG, resized, recompressed), such as {shown}",
            "remove the copies from training, or hold out whole images (all rows of an image on one side of the split)",
            by_share(len(found), len(held_out), allowed, sampled=True),
            **evidence,
        )
    ]


def _more_often(count: int, of: int, count_by_nature: int, of_nature: int) -> bool:
    """Whether one share is significantly above another, according to Fisher's exact test at level `_SURE`."""
    from scipy.stats import fisher_exact  # imported here because it takes half a second and is rarely needed

    table = [[count, of - count], [count_by_nature, of_nature - count_by_nature]]
    return bool(fisher_exact(table, alternative="greater").pvalue < _SURE)


def _pairs(rows: list[Row], candidates: Mapping[int, list[int]], train: Dataset) -> list[tuple[Row, Sample]]:
    """Return the rows whose image resembles that of a candidate, each with the first such candidate."""
    place = {row: p for p, row in enumerate(train.rows)}
    found: list[tuple[Row, Sample]] = []
    for row in rows:
        for other in candidates.get(row.sample.row, []):
            twin = train[place[other]] if other in place else None
            if isinstance(twin, Sample) and _alike(row.sample.pixels_CHW, twin.pixels_CHW):
                found.append((row, twin))
                break
    return found


def _alike(one_CHW: Tensor | None, other_CHW: Tensor | None) -> bool:
    if one_CHW is None or other_CHW is None or one_CHW.shape != other_CHW.shape:
        return False
    one, other = (F.adaptive_avg_pool2d(p_CHW.float(), _CELLS) for p_CHW in (one_CHW, other_CHW))
    apart = (one - other).abs()
    return float(one.std()) > _FLAT and float(apart.mean()) < _MEAN and float(apart.max()) < _MOST


def cached_twins(train: Iterable[str], held_out: Iterable[str], allowed: float) -> list[Finding]:
    """Report held-out images whose decoded pixels are bitwise equal to those of a training image, over all rows.

    Args:
        train: hashes of the decoded training images; "" for those that could not be read.
        held_out: hashes of the decoded held-out images, in the same form.
        allowed: largest share of rows for which a leak is only a warning.
    """
    trained = [h for h in train if h]
    known = set(trained) - shown_by_many(trained)
    hashes = [h for h in held_out if h]
    count = sum(h in known for h in hashes)
    if not count:
        return []
    return [
        finding(
            "split-leak",
            f"the decoded images of {count} of {len(hashes)} held-out rows {agree(count, 'is', 'are')} also trained "
            "on, pixel by pixel",
            "remove these rows from one side, or hold out whole images: all rows of an image on one side",
            by_share(count, len(hashes), allowed),
            rows=count,
            of=len(hashes),
        )
    ]
