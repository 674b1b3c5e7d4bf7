"""Checks that rows with different pictures get different pixels, by comparing the data set with collated batches.

An image cache whose key is incomplete (bytes without size and mode, a file name without its folder) can return the
picture of another row (modelscope/ms-swift#9605). Neither the batch nor the loss reveals this error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from eyechart.faults.table import agree, finding
from eyechart.processors.geometry import read_geometry
from eyechart.processors.pixel_entries import PixelLayout
from eyechart.processors.pixel_images import numbers_of
from eyechart.results import Finding

# size: pixels per side of a downscaled picture
_SIDE = 16
# measured: benchmarks/threads.py on healthy set-ups of Trainer, TRL and a loop: 0 of 25
_VISIBLE = 4.0
"""Two downscaled pictures count as different if their mean absolute difference is above this, on a scale of 0 to
255."""
# measured: benchmarks/threads.py on healthy set-ups of Trainer, TRL and a loop: 0 of 25
_RATIO = 1.2
"""Two pictures count as different if their aspect ratios differ by more than this factor and the processor keeps aspect
ratios."""
# size: levels of a row
_DEPTH = 6
"""Maximum nesting depth at which a row is searched for pictures: row, turns, parts of a message."""


@dataclass(frozen=True)
class Served:
    """The pictures of a row, and the pixels that the collator made for it."""

    index: int
    """Index of the row in its data set."""
    pictures: tuple[Image.Image, ...]
    pixels: str
    """A hash of these pixels."""
    native: bool
    """Whether the processor keeps the aspect ratio of pictures."""


def served_of(
    indices: Sequence[int], rows: Sequence[Any], batch: Mapping[str, Any], processor: Any, config: Any
) -> list[Served]:
    """Return the pictures and the pixels of each row of a batch; rows without a decoded picture are left out.

    Args:
        indices: index of each row in its data set.
        rows: the rows as the data set returns them.
        batch: the batch that the collator made from them.
        processor: the model's processor, or None.
        config: the model's config, or None.

    Raises:
        InputError: `batch` is not a batch dict, or it is not known which pixels belong to which row.
        TypeError: the pixels are not numeric or are ragged.
    """
    pictures = [tuple(pictures_in(row)) for row in rows]
    if not any(pictures):
        return []
    geometry = read_geometry(batch, processor, config)
    if geometry.rows != len(rows):  # the batch is packed, or rows were left out
        return []
    native = geometry.pixels.layout is PixelLayout.PATCHES
    found = []
    for place, index in enumerate(indices):
        entries = geometry.entries_of(place)
        if not entries or not pictures[place]:
            continue
        digest = hashlib.sha256()
        for entry in entries:
            values = np.ascontiguousarray(numbers_of(batch, geometry, entry))
            digest.update(f"{values.shape}{entry.grid}".encode() + values.tobytes())
        found.append(Served(index, pictures[place], digest.hexdigest(), native))
    return found


def pictures_in(row: Any, depth: int = _DEPTH) -> Iterator[Image.Image]:
    """Yield the decoded pictures in a row, in their order; the row may be a dict, a list or a dataclass."""
    if isinstance(row, Image.Image):
        yield row
    elif depth and not isinstance(row, str | bytes | np.ndarray):
        inner = row.values() if isinstance(row, Mapping) else row if isinstance(row, list | tuple) else _attributes(row)
        for value in inner:
            yield from pictures_in(value, depth - 1)


def _attributes(row: Any) -> Sequence[Any]:
    """Return the fields of a row that is a dataclass; other objects are not searched."""
    return tuple(vars(row).values()) if hasattr(row, "__dataclass_fields__") else ()


def wrongly_served(served: Sequence[Served]) -> Finding | None:
    """Return a finding if rows with visibly different pictures have equal pixels; otherwise None."""
    first: dict[str, Served] = {}
    pairs = []
    for one in served:
        other = first.setdefault(one.pixels, one)
        if other is not one and _differ(one, other):
            pairs.append((other.index, one.index))
    if not pairs:
        return None
    a, b = pairs[0]
    return finding(
        "image-order",
        f"rows {a} and {b} of the data set have different pictures, but the collator makes the same pixels from them "
        f"({len(pairs)} such {agree(len(pairs), 'pair', 'pairs')} among {len(served)} rows): a row is trained with the "
        "picture of another one",
        "check for an image cache whose key is incomplete (bytes without size and mode, a file name "
        "without its folder), and for a loop that reuses a variable",
        pairs=[list(pair) for pair in pairs[:8]],
        rows=len(served),
    )


def _differ(one: Served, other: Served) -> bool:
    if len(one.pictures) != len(other.pictures):
        return True
    return any(_visibly(a, b, one.native) for a, b in zip(one.pictures, other.pictures, strict=True))


def _visibly(one: Image.Image, other: Image.Image, native: bool) -> bool:
    ratios = sorted(picture.height / picture.width for picture in (one, other))
    if native and ratios[1] > _RATIO * ratios[0]:
        return True
    small = [np.asarray(picture.convert("RGB").resize((_SIDE, _SIDE)), dtype=np.float64) for picture in (one, other)]
    return float(np.abs(small[0] - small[1]).mean()) > _VISIBLE
