"""Selects rows of a batch dict, together with the pixels that belong to them.

Every value in the batch is of one of four kinds: an array with one entry per row (ids, masks, labels, positions), an
array with one entry per image (grids, sizes), the pixel tensor, or a value that does not depend on the rows (a number,
a string). The kind is determined from the shape and the name. A value of no known kind is an error, because wrongly
selected values would lead to wrong results without any warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eyechart.exits import InputError
from eyechart.processors.arrays import shape_of, take
from eyechart.processors.geometry import Geometry, Packing
from eyechart.processors.pixel_entries import Entry, PixelLayout

_OF_IMAGES = ("pixel", "image", "grid", "spatial_shapes", "aspect_ratio", "num_tiles", "num_crops", "flattened_patches")
"""Prefixes by which arrays with one entry per image, and the pixel tensor, are recognised."""
_PER_ROW_COUNTS = ("images_per_sample", "batch_num_images", "image_attention_mask")


def cut_rows(batch: Mapping[str, Any], geometry: Geometry, rows: Sequence[int]) -> dict[str, Any]:
    """Return a batch that contains only the rows `rows`, in this order; a row may occur more than once.

    PyTorch tensors, NumPy arrays and lists keep their type; other arrays become NumPy arrays. Padding is not removed.

    Raises:
        InputError: a row contains several samples or a video, a number in `rows` is out of range, it is not known which
            images belong to which row, or the shape of an array fits neither the rows nor the images.
    """
    chosen = _checked(batch, geometry, rows)
    text = {key: _rows_of(key, batch[key], geometry, rows) for key in batch if not is_image_key(key)}
    return text | _images_of(batch, geometry, chosen, rows)


def image_inputs(batch: Mapping[str, Any], geometry: Geometry, rows: Sequence[int]) -> dict[str, Any]:
    """Return only the pixels and the per-image arrays of the rows `rows`, in this order.

    `{**other, **image_inputs(...)}` is the batch `other` with these pictures instead of its own, and with its own ids.

    Raises:
        InputError: for the same reasons as in `cut_rows`.
    """
    return _images_of(batch, geometry, _checked(batch, geometry, rows), rows)


def is_image_key(key: str) -> bool:
    """Return whether an array belongs to the images and not to the text, judging by its name."""
    return key.startswith(_OF_IMAGES)


def _checked(batch: Mapping[str, Any], geometry: Geometry, rows: Sequence[int]) -> list[list[Entry]]:
    """Return the entries (images or tiles) of each row in `rows`, after checking that rows can be selected."""
    if geometry.packing is not Packing.NONE:
        raise InputError(
            f"batch: its rows cannot be separated: {geometry.packing.value}",
            "make a batch without packing (packing=False, padding_free=False)",
        )
    if any(str(key).startswith(("pixel_values_videos", "video_")) and batch[key] is not None for key in batch):
        raise InputError("batch: rows with videos are not supported", "pass a batch with images only")
    if wrong := [row for row in rows if not 0 <= row < geometry.rows]:
        raise InputError(f"rows: expected numbers from 0 to {geometry.rows - 1}, got {wrong[0]}", "choose other rows")
    return [geometry.entries_of(row) for row in rows]


def _rows_of(key: str, value: Any, geometry: Geometry, rows: Sequence[int]) -> Any:
    """Select rows of a per-row array, along its first axis, or its second one for M-RoPE's [3, B, T]."""
    shape = shape_of(value)
    if not shape:
        return value
    if key == "position_ids" and len(shape) == 3 and shape[1:] == geometry.ids_BT.shape:
        return take(value, rows, axis=1)
    if shape[0] == geometry.rows:
        return take(value, rows)
    raise InputError(
        f"batch[{key!r}]: shape {list(shape)} fits neither the {geometry.rows} rows of the batch nor its images",
        f"remove it from the batch, as in {{k: v for k, v in batch.items() if k != {key!r}}}",
    )


def _images_of(
    batch: Mapping[str, Any], geometry: Geometry, chosen: list[list[Entry]], rows: Sequence[int]
) -> dict[str, Any]:
    flat = [entry for entries in chosen for entry in entries]
    cut: dict[str, Any] = {}
    for key in (key for key in batch if is_image_key(key)):
        shape = shape_of(batch[key])
        if not shape:
            cut[key] = batch[key]
        elif geometry.pixels.layout is PixelLayout.PATCHES and shape[0] == _patches(geometry):
            cut[key] = take(batch[key], [place for entry in flat for place in range(entry.start, entry.stop)])
        elif geometry.pixels.layout is PixelLayout.ROWS or key in _PER_ROW_COUNTS:
            cut[key] = _rows_of(key, batch[key], geometry, rows)
        elif shape[0] == len(geometry.entries):
            cut[key] = take(batch[key], [entry.index for entry in flat])
        else:
            cut[key] = _rows_of(key, batch[key], geometry, rows)
    # If none of the rows has an image, the model gets None, because it may not accept an empty tensor.
    return cut if flat or geometry.pixels.layout is PixelLayout.ROWS else dict.fromkeys(cut)


def _patches(geometry: Geometry) -> int:
    return geometry.entries[-1].stop if geometry.entries else 0
