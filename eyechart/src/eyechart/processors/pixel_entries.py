"""Reads the pixel tensor of a batch as a list of entries: images, or tiles if the processor splits images into tiles.

The number of visual tokens of an entry is computed from its grid, from its size, or from a setting of the processor or
the config. It is never computed from the image positions in the text, because other code compares the two numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from eyechart.exits import InputError
from eyechart.processors.arrays import AnyArray, matrix_of, shape_of, to_numpy

PIXEL_KEYS = ("pixel_values", "pixel_values_images", "flattened_patches", "image_pixel_values", "images")
"""The keys under which processors store the pixels of images."""
GRID_KEYS = ("image_grid_thw", "image_grid_hws", "image_grid_hw")
"""The keys of the grids: the numbers of patches of each image, as (time, height, width) or (height, width)."""


class PixelLayout(Enum):
    """The possible ways in which a batch stores the pixel values of its images."""

    NONE = "no pixels"
    PATCHES = "the patches of all images in one axis, with a grid per image"
    """The shape is [patches, values] (the Qwen families, GLM)."""
    ENTRIES = "the images or tiles of all rows in one axis"
    """The pixels are [N, C, H, W], [N, tiles, C, H, W] or a list (LLaVA, Gemma 3, InternVL, Pixtral, LLaVA-NeXT)."""
    ROWS = "the images or tiles of each row, padded to the same number"
    """The shape is [B, most, C, H, W] (Idefics, SmolVLM) or [B, most, tiles, C, H, W] (Mllama)."""
    UNKNOWN = "a form that is not known"


@dataclass(frozen=True)
class Entry:
    """One entry of the pixel tensor: an image, or one tile of an image."""

    row: int | None
    """The row of the batch that the entry belongs to; None if it is not known."""
    index: int
    """The index of the entry among all entries of the batch; in the layout `ROWS`, among those of its row. Arrays with
    one value per image, such as grids, have this order."""
    start: int
    """The first index of the entry in the first axis of the pixel tensor; in `ROWS`, in the second axis."""
    stop: int
    """The index after the last one, in the same axis."""
    tokens: int | None
    """The number of visual tokens that the model computes from the entry; None if it is not known."""
    grid: tuple[int, int, int] | None = None
    """The numbers of patches in time, height and width, before patches are merged; None if there is no grid."""


@dataclass(frozen=True)
class Pixels:
    """The pixel tensor of a batch, and the entries that it consists of."""

    layout: PixelLayout
    """How the pixels are stored."""
    key: str | None
    """The key of the pixel tensor in the batch; None if the batch has no pixels."""
    entries: tuple[Entry, ...]
    """All entries except padding, in the order of the batch; their rows are set only in the layout `ROWS`."""
    merge: int | None
    """The number of patches per visual token in each direction; None if not known or not in the layout `PATCHES`."""


def read_pixels(batch: Mapping[str, Any], rows: int, processor: Any, config: Any) -> Pixels:
    """Find the pixel tensor and its entries in a batch with `rows` rows; `processor` and `config` may be None."""
    key = next((name for name in PIXEL_KEYS if batch.get(name) is not None), None)
    layout = _layout_of(batch, key, rows)
    if layout is PixelLayout.PATCHES:
        merge = _merge_of(processor, config)
        return Pixels(layout, key, _patch_entries(batch, merge), merge)
    if layout is PixelLayout.ROWS:
        return Pixels(layout, key, _row_entries(batch, str(key), processor), None)
    if layout is PixelLayout.ENTRIES:
        return Pixels(layout, key, _plain_entries(batch, str(key), processor, config), None)
    return Pixels(layout, key, (), None)


def grids_of(batch: Mapping[str, Any]) -> AnyArray | None:
    """Return the grids of the images as int64 [images, (time, height, width)]; None if the batch has no grids."""
    for key in GRID_KEYS:
        grids = matrix_of(batch, key)
        if grids is not None and grids.ndim == 2 and grids.shape[1] in (2, 3):
            whole = grids if grids.shape[1] == 3 else np.c_[np.ones(len(grids), grids.dtype), grids]
            return whole.astype(np.int64)
    return None


def _layout_of(batch: Mapping[str, Any], key: str | None, rows: int) -> PixelLayout:
    if key is None:
        return PixelLayout.NONE
    shape = shape_of(batch[key])
    if shape is None:
        return PixelLayout.UNKNOWN
    if grids_of(batch) is not None and len(shape) == 2:
        return PixelLayout.PATCHES
    masked = batch.get("pixel_attention_mask") is not None or batch.get("aspect_ratio_ids") is not None
    if len(shape) >= 5 and shape[0] == rows and masked:
        return PixelLayout.ROWS
    if isinstance(batch[key], list | tuple) or len(shape) in (3, 4, 5):
        return PixelLayout.ENTRIES
    return PixelLayout.UNKNOWN


def _patch_entries(batch: Mapping[str, Any], merge: int | None) -> tuple[Entry, ...]:
    grids = grids_of(batch)
    assert grids is not None
    entries, start = [], 0
    for index, (time, height, width) in enumerate(grids.tolist()):
        patches = time * height * width
        tokens = None if merge is None else patches // merge**2
        entries.append(Entry(None, index, start, start + patches, tokens, (time, height, width)))
        start += patches
    return tuple(entries)


def _merge_of(processor: Any, config: Any) -> int | None:
    vision = getattr(config, "vision_config", None)
    image_processor = getattr(processor, "image_processor", None)
    for owner, name in ((image_processor, "merge_size"), (vision, "spatial_merge_size"), (vision, "merge_size")):
        value = getattr(owner, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _row_entries(batch: Mapping[str, Any], key: str, processor: Any) -> tuple[Entry, ...]:
    tokens = None if batch.get("aspect_ratio_ids") is not None else _fixed_tokens(processor, None)
    return tuple(
        Entry(row, int(i), int(i), int(i) + 1, tokens)
        for row, used_N in enumerate(_used_of(batch, key))
        for i in np.flatnonzero(used_N)
    )


def _used_of(batch: Mapping[str, Any], key: str) -> AnyArray:
    """Return a mask that is True at entries that are images and not padding, bool [B, most]."""
    for name in ("pixel_attention_mask", "aspect_ratio_ids", key):
        mask = matrix_of(batch, name)
        if mask is None:
            continue
        shape = shape_of(batch[key]) or ()
        if mask.shape[:2] != shape[:2] or not mask.size:
            raise InputError(
                f"batch[{name!r}]: expected the first two sizes of {key}, {list(shape[:2])}, got {list(mask.shape)}",
                "pass the arrays of one call of the processor",
            )
        return np.asarray(mask.reshape(*mask.shape[:2], -1).any(axis=2))
    raise AssertionError("the layout ROWS has pixels")


def _plain_entries(batch: Mapping[str, Any], key: str, processor: Any, config: Any) -> tuple[Entry, ...]:
    count = (shape_of(batch[key]) or (0,))[0]
    sizes = matrix_of(batch, "image_sizes")
    if sizes is None:
        fixed = _fixed_tokens(processor, config) or _square_tokens(shape_of(batch[key]) or (), processor, config)
        tokens: list[int | None] = [fixed] * count
    else:
        tokens = _sized_tokens(sizes, count, processor)
    return tuple(Entry(None, i, i, i + 1, tokens[i]) for i in range(count))


def _fixed_tokens(processor: Any, config: Any) -> int | None:
    """Return the fixed number of visual tokens per entry from a setting of processor or config; None without one."""
    named = ((processor, "image_seq_length"), (processor, "image_seq_len"), (config, "mm_tokens_per_image"))
    for owner, name in named:
        value = getattr(owner, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _square_tokens(shape: tuple[int, ...], processor: Any, config: Any) -> int | None:
    """Return the number of visual tokens of an image in the format of LLaVA, [N, C, H, W]; None in other formats.

    It is the number of patches, plus additional tokens such as CLS if the model's feature selection keeps them.
    """
    strategy = getattr(processor, "vision_feature_select_strategy", None)
    patch = getattr(processor, "patch_size", None)
    more = getattr(processor, "num_additional_image_tokens", 0)
    if strategy is None or not patch:
        strategy = getattr(config, "vision_feature_select_strategy", None)
        patch, more = getattr(getattr(config, "vision_config", None), "patch_size", None), 1
    if len(shape) != 4 or strategy not in ("default", "full") or not isinstance(patch, int):
        return None
    return (shape[2] // patch) * (shape[3] // patch) + int(more) - int(strategy == "default")


def _sized_tokens(sizes: AnyArray, count: int, processor: Any) -> list[int | None]:
    """Return the numbers of visual tokens of images of the sizes [N, (height, width)], as in Pixtral.

    In Pixtral, each patch (or group of merged patches) is one visual token. In other formats, the numbers are None.
    """
    patch = getattr(processor, "patch_size", None)
    if sizes.shape != (count, 2) or not isinstance(patch, int) or not hasattr(processor, "image_break_token"):
        return [None] * count
    side = patch * int(getattr(processor, "spatial_merge_size", 1))
    return [int(height) // side * (int(width) // side) for height, width in to_numpy(sizes).tolist()]
