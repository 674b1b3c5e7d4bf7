"""Held-out images that are trained on under another file: saved again, in another format or size.

Their bytes differ, so files cannot show it. Rows that share a caption are few, and a copied row keeps its caption.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch.nn.functional as F
from torch import Tensor

from qwen3_vlm.batch import Sample
from qwen3_vlm.data.dataset import Dataset
from qwen3_vlm.faults import agree, finding
from qwen3_vlm.preflight.corpus import shown_by_many
from qwen3_vlm.preflight.rows import SHOWN, RawRow, by_share
from qwen3_vlm.preflight.text import Row
from qwen3_vlm.results import Finding

_PER_ROW = 4
"""Training rows with the same caption that are tried for a held-out row."""
_CELLS = 16
"""Images are compared as means over 16 x 16 cells, which compression and resizing hardly change."""
_MEAN, _MOST = 3.0, 32.0
"""Grey levels of 255 by which two savings of one image differ at most: JPEG at quality 75 of images of 64 pixels has
means of 1 to 2.7 and single cells of up to 32; different scenes with one caption differ by 43 and more in some cell."""
_FLAT = 8.0
"""Grey levels between the cells of an image below which it looks like any other."""


def same_captions(train: Mapping[int, RawRow], held_out: Iterable[RawRow]) -> dict[int, list[int]]:
    """Training rows by held-out row that have its caption and another image file."""
    by_caption: dict[str, list[RawRow]] = defaultdict(list)
    for row in train.values():
        by_caption[row.caption].append(row)
    return {
        row.row: [other.row for other in by_caption[row.caption] if other.image != row.image][:_PER_ROW]
        for row in held_out
        if row.caption in by_caption
    }


def twin_findings(
    held_out: list[Row], candidates: dict[int, list[int]], train: Dataset, allowed: float
) -> list[Finding]:
    """Decode the candidates and compare; rows that cannot be read are counted elsewhere."""
    place = {row: p for p, row in enumerate(train.rows)}
    found: list[tuple[Row, Sample]] = []
    for row in held_out:
        for other in candidates.get(row.sample.row, []):
            twin = train[place[other]] if other in place else None
            if isinstance(twin, Sample) and _alike(row.sample.pixels_CHW, twin.pixels_CHW):
                found.append((row, twin))
                break
    if not found:
        return []
    first, twin = found[0]
    return [
        finding(
            "split-leak",
            f"the images of {len(found)} of {len(held_out)} held-out rows are also trained on, in files that were "
            f"saved anew (as JPEG, resized, compressed again): row {first.sample.row} ({first.sample.image}) shows "
            f"what training row {twin.row} ({twin.image}) shows, with the same caption",
            "take the copies out of the training side, or hold out whole images (all rows of an image on one side)",
            by_share(len(found), len(held_out), allowed, sampled=True),
            rows=len(found),
            of=len(held_out),
            first_rows=[row.sample.row for row, _ in found[:SHOWN]],
        )
    ]


def _alike(one_CHW: Tensor | None, other_CHW: Tensor | None) -> bool:
    if one_CHW is None or other_CHW is None or one_CHW.shape != other_CHW.shape:
        return False
    one, other = (F.adaptive_avg_pool2d(p_CHW.float(), _CELLS) for p_CHW in (one_CHW, other_CHW))
    apart = (one - other).abs()
    return float(one.std()) > _FLAT and float(apart.mean()) < _MEAN and float(apart.max()) < _MOST


def cached_twins(train: Iterable[str], held_out: Iterable[str], allowed: float) -> list[Finding]:
    """The same over all rows, where both sides have been decoded and hashed: pixels that are equal to the last bit.

    Args:
        train: hashes of the decoded training images; "" for those that could not be read.
        held_out: the same of the held-out images.
        allowed: share of rows up to which it is a warning.
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
            "take these rows out of one side, or hold out whole images: all rows of an image on one side",
            by_share(count, len(hashes), allowed),
            rows=count,
            of=len(hashes),
        )
    ]
