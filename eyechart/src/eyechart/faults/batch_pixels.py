"""Checks the pixels of a batch: not finite, blank, equal in several rows, or with an unexpected resolution."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from eyechart.faults.batch_evidence import BatchEvidence, Check, Why, rows_in_words
from eyechart.faults.table import agree, finding
from eyechart.processors.arrays import AnyArray, shape_of
from eyechart.processors.geometry import Unassigned
from eyechart.processors.pixel_entries import PixelLayout
from eyechart.processors.pixel_images import numbers_of, one_colour
from eyechart.results import Finding

# measured: eyechart/tests/test_check_batch.py on sound batches of seven architectures: 0 of 318
_SEVERAL = 4
"""Minimum number of images from whose sizes a common limit is inferred."""


def diagnose_pixels(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield findings about the pixels; nothing for a batch of text only."""
    entries = evidence.geometry.entries
    if not entries or evidence.geometry.unassigned is Unassigned.PATCHES_DIFFER:
        return
    try:
        pixels = [numbers_of(evidence.batch, evidence.geometry, entry) for entry in entries]
    except TypeError:
        evidence.skip(Check.PIXELS, Why.UNKNOWN_FORM)
        return
    broken = [place for place, values in enumerate(pixels) if not np.isfinite(values).all()]
    if broken:
        yield finding(
            "non-finite",
            f"NaN or infinity among the pixel values of {len(broken)} of {len(entries)} images",
            "look for a division by a standard deviation of 0, or for 16-bit pixels that overflow before they are "
            "normalised",
            images=broken,
        )
        return
    yield from _blank(evidence, pixels)
    yield from _resolution(evidence)


def _blank(evidence: BatchEvidence, pixels: list[AnyArray]) -> Iterator[Finding]:
    """Yield findings about images of one colour, and about one image in several rows."""
    blank = [place for place, values in enumerate(pixels) if one_colour(values)]
    if len(blank) == len(pixels):
        value = float(pixels[0].reshape(-1)[0])
        zeroed = all(not values.any() for values in pixels)
        yield finding(
            "images-degenerate",
            f"{agree(len(pixels), 'the only image', f'all {len(pixels)} images')} of the batch "
            f"{agree(len(pixels), 'is', 'are')} blank (every value is {value:.3g} or the same per colour): the model "
            "sees no picture, and its loss does not show it",
            "look at one image after each step: reading, transforms, processor, collator; look for zeros_like, a mask "
            "that multiplies the pixels, or files that are replaced by a blank image when they cannot be read",
            # A single scanned page can be white, but a normalised image of a file is not 0 everywhere.
            "error" if zeroed or len(pixels) > 1 else "warning",
            images=blank,
        )
        return
    if blank:
        yield finding(
            "images-degenerate",
            f"{len(blank)} of {len(pixels)} images {agree(len(blank), 'is', 'are')} blank",
            "check that files which cannot be read are left out instead of being replaced by a blank image",
            "note",
            images=blank,
        )
    yield from _repeated(evidence, pixels, blank)


def _repeated(evidence: BatchEvidence, pixels: list[AnyArray], blank: list[int]) -> Iterator[Finding]:
    entries = evidence.geometry.entries
    if evidence.geometry.unassigned is not None:
        return
    by_hash: dict[str, set[int]] = {}
    for place, (entry, values) in enumerate(zip(entries, pixels, strict=True)):
        if place not in blank and entry.row is not None:
            digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
            by_hash.setdefault(digest, set()).add(entry.row)
    groups = [sorted(rows) for rows in by_hash.values() if len(rows) > 1]
    if not groups:
        return
    with_images = {entry.row for entry in entries}
    largest = max(groups, key=len)
    # Without labels, a batch may contain a prompt several times on purpose (a group of generations).
    labelled = evidence.answers.labels_BT is not None
    every = len(largest) == len(with_images) and len(largest) > 2 and labelled
    yield finding(
        "images-degenerate",
        f"{rows_in_words(largest)} have the same image"
        + (
            ": no row of the batch can be distinguished by its picture"
            if every
            else ", which is usual for several requests about one picture"
        ),
        "look for a cache whose key does not depend on the picture, or a loop that appends the same image"
        if every
        else "nothing, if the data has several rows per picture",
        "warning" if every else "note",
        rows=largest,
    )


def _resolution(evidence: BatchEvidence) -> Iterator[Finding]:
    """Yield a finding if images do not have the size to which the processor resizes."""
    image_processor = getattr(evidence.processor, "image_processor", None)
    if image_processor is None:
        evidence.skip(Check.RESOLUTION, Why.NO_PROCESSOR)
        return
    if evidence.geometry.pixels.layout is PixelLayout.PATCHES:
        yield from _native_resolution(evidence, image_processor)
        return
    shape = shape_of(evidence.batch[str(evidence.geometry.pixels.key)]) or ()
    wanted = _fixed_size(image_processor)
    if wanted is None or len(shape) < 4 or evidence.batch.get("image_sizes") is not None:
        evidence.skip(Check.RESOLUTION, Why.UNKNOWN_FORM)
        return
    if shape[-2:] != wanted and shape[-1] not in (1, 3):
        yield finding(
            "resolution-differs",
            f"images are {shape[-2]} x {shape[-1]} pixels, but the processor makes them {wanted[0]} x {wanted[1]}",
            "use the checkpoint's own image processor settings in training and afterwards; if another size is needed, "
            "save the processor with it",
            None if evidence.geometry.expected == evidence.geometry.placeholders_B.sum() else "error",
            size=list(shape[-2:]),
            processor=list(wanted),
        )


def _fixed_size(image_processor: Any) -> tuple[int, int] | None:
    """Return height and width if the processor resizes all images to one size; None otherwise."""
    crop = _sides(getattr(image_processor, "crop_size", None)) if getattr(image_processor, "do_center_crop", 0) else {}
    largest = _sides(getattr(image_processor, "max_image_size", None))
    size = _sides(getattr(image_processor, "size", None)) if not largest else {}
    for found in (crop, size):
        if found.get("height") and found.get("width"):
            return int(found["height"]), int(found["width"])
    edge = largest.get("longest_edge")
    return (int(edge), int(edge)) if edge else None


def _sides(value: Any) -> dict[str, Any]:
    names = ("height", "width", "shortest_edge", "longest_edge")
    pick = value.get if hasattr(value, "get") else lambda name: getattr(value, name, None)
    return {name: pick(name) for name in names} if value is not None else {}


def _native_resolution(evidence: BatchEvidence, image_processor: Any) -> Iterator[Finding]:
    """Yield a finding if areas are outside the processor's limits, or if all images have the same longest side."""
    side = getattr(image_processor, "patch_size", None)
    size = _sides(getattr(image_processor, "size", None))
    least = getattr(image_processor, "min_pixels", None) or size.get("shortest_edge")
    most = getattr(image_processor, "max_pixels", None) or size.get("longest_edge")
    grids = [entry.grid for entry in evidence.geometry.entries if entry.grid]
    if not isinstance(side, int) or not isinstance(least, int) or not isinstance(most, int):
        evidence.skip(Check.RESOLUTION, Why.UNKNOWN_FORM)
        return
    sizes = [(grid[1] * side, grid[2] * side) for grid in grids]
    outside = [size for size in sizes if not least <= size[0] * size[1] <= most]
    if outside:
        height, width = outside[0]
        yield finding(
            "resolution-differs",
            f"{len(outside)} of {len(sizes)} images are outside the processor's limits of {least:,} to {most:,} "
            f"pixels, such as {height} x {width}: they were made with other settings than those saved with the "
            "processor",
            "set the limits in the processor itself (min_pixels, max_pixels or size), and save it with the model, so "
            "that training and use have the same resolution",
            size=[height, width],
            least=least,
            most=most,
        )
        return
    yield from _common_side(evidence, sizes, side, most)


def _common_side(evidence: BatchEvidence, sizes: list[tuple[int, int]], side: int, most: int) -> Iterator[Finding]:
    """Yield a note if images of different shapes have the same longest side, and the processor allows a longer one."""
    longest = {max(size) for size in sizes}
    shapes = {height / width for height, width in sizes}
    edge = max(longest)
    longer = edge + side * (evidence.geometry.pixels.merge or 1)
    if len(sizes) < _SEVERAL or len(longest) > 1 or len(shapes) == 1 or longer * longer > most:
        return
    yield finding(
        "resolution-differs",
        f"all {len(sizes)} images have a longest side of {edge} pixels although their shapes differ, and the processor "
        f"allows {most:,} pixels: either all files have this size, or something makes them smaller before the "
        "processor sees them",
        "compare with the files; if they are larger, look for a resize in the data set or a cap of the trainer "
        "(image_size, resize, max_image_size)",
        "note",
        longest_side=edge,
        most=most,
    )
