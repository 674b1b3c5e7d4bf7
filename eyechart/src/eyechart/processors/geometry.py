"""Reads a batch dict: its rows, its image positions, and which part of the pixel tensor belongs to which row.

The processors of transformers store pixels in the ways that `PixelLayout` lists. In all of these ways, the images have
the order of the rows, but most processors do not record how many images each row has. The number of images in each row
is therefore worked out from the row's image positions. An *entry* of the pixel tensor is an image, or a tile if the
processor splits images into tiles. Entries are assigned to a row, in order, until they have as many visual tokens as
the row has image positions. The next entry then belongs to the next row.

    geometry = read_geometry(batch, processor, model.config)
    geometry.placeholders_B             number of image positions in each row
    geometry.entries_of(row)            the entries that belong to a row
    cut_rows(batch, geometry, [2, 0])   the batch with only these rows (`eyechart.processors.cutting`)

The suffixes of array names give their dimensions: B rows, T token positions, N entries of the pixel tensor over all
rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from eyechart.exits import InputError
from eyechart.processors.arrays import AnyArray, matrix_of, shape_of
from eyechart.processors.image_ids import ImageId, find_image_id
from eyechart.processors.pixel_entries import Entry, PixelLayout, Pixels, read_pixels

Runs = tuple[tuple[tuple[int, int], ...], ...]
"""For each row, its runs of consecutive image positions, each as (first, last + 1)."""
BOUNDARIES = ("cu_seq_lens_q", "cu_seqlens", "seq_idx")
"""The names of the arrays that give the boundaries between the samples of a packed row."""
_COUNT_KEYS = ("images_per_sample", "batch_num_images")


class Unassigned(Enum):
    """The reasons why it may not be known which pixels belong to which row."""

    NO_IMAGE_ID = "the id of an image position is not known"
    COUNTS_DIFFER = "image positions and visual tokens differ in number"
    UNKNOWN_LAYOUT = "the pixels are stored in a form that is not known"
    PATCHES_DIFFER = "the grids count another number of patches than the pixel tensor has"
    UNKNOWN_TOKENS = "the number of visual tokens per image is not known"


class Packing(Enum):
    """Whether rows of the batch contain several samples each, and what shows it."""

    NONE = "one sample per row"
    BOUNDARIES = "the batch has boundaries of sequences (cu_seqlens, cu_seq_lens_q or seq_idx)"
    POSITIONS = "position ids start again within a row"


@dataclass(frozen=True)
class Geometry:
    """The structure of a batch dict: its ids, its image positions, and the images that belong to each row."""

    ids_BT: AnyArray
    """Token ids, int64 [B, T]."""
    attended_BT: AnyArray
    """True at positions that are not padding, bool [B, T]; all True if the batch has no two-dimensional mask."""
    image_id: ImageId
    """The token id at image positions, and where this id was found."""
    runs: Runs
    """For each row, its runs of consecutive image positions, each as (first, last + 1)."""
    pixels: Pixels
    """The layout of the pixel tensor, and its entries with the rows that they belong to."""
    unassigned: Unassigned | None
    """Why the entries cannot be assigned to rows; None if all of them are assigned."""
    packing: Packing
    """Whether rows contain several samples each. The rows of such a batch cannot be selected."""

    @property
    def rows(self) -> int:
        """The number of rows, B."""
        return int(self.ids_BT.shape[0])

    @property
    def placeholders_B(self) -> AnyArray:
        """The number of image positions in each row, int64 [B]."""
        return np.array([sum(stop - start for start, stop in runs) for runs in self.runs], dtype=np.int64)

    @property
    def image_BT(self) -> AnyArray:
        """True at image positions, bool [B, T]."""
        return image_positions(self.ids_BT, self.image_id)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries of the pixel tensor in the order of the batch, without those that are only padding."""
        return self.pixels.entries

    @property
    def expected(self) -> int | None:
        """The total number of visual tokens of all entries; None if it is not known for every entry."""
        known = [entry.tokens for entry in self.entries if entry.tokens is not None]
        return sum(known) if len(known) == len(self.entries) else None

    def entries_of(self, row: int) -> list[Entry]:
        """Return the entries of a row in their order; the list is empty for a row without images.

        Raises:
            InputError: it is not known which entries belong to which row.
        """
        if self.unassigned is not None:
            raise InputError(
                f"batch: it is not known which images belong to which row, because {self.unassigned.value}",
                "pass the processor and the model, with a batch as the processor made it",
            )
        return [entry for entry in self.entries if entry.row == row]


def read_geometry(batch: Mapping[str, Any], processor: Any = None, config: Any = None) -> Geometry:
    """Read the structure of a batch.

    Args:
        batch: the batch as the collator returns it: a dict or a `BatchFeature` with at least `input_ids` [B, T]. The
            arrays can come from any library.
        processor: the model's processor or tokenizer. If both it and `config` are None, image positions are recognised
            by the token types or by the longest run of equal ids.
        config: the model's config.

    Raises:
        InputError: the batch is not a dict, has no two-dimensional `input_ids`, or contains an array that is not
            numeric.
    """
    ids_BT = _ids_of(batch)
    attended_BT = _attended_of(batch, ids_BT)
    image_id = find_image_id(ids_BT, attended_BT, batch, processor, config)
    runs = tuple(_runs_of(row_T) for row_T in image_positions(ids_BT, image_id))
    pixels = read_pixels(batch, len(ids_BT), processor, config)
    rows = _assign(pixels, image_id, runs, batch, processor)
    unassigned = rows if isinstance(rows, Unassigned) else None
    if isinstance(rows, list):
        entries = [dataclasses.replace(entry, row=row) for entry, row in zip(pixels.entries, rows, strict=True)]
        pixels = dataclasses.replace(pixels, entries=tuple(entries))
    packing = _packing_of(batch, attended_BT)
    return Geometry(ids_BT, attended_BT, image_id, runs, pixels, unassigned, packing)


def image_positions(ids_BT: AnyArray, image_id: ImageId) -> AnyArray:
    """Return a mask that is True at image positions, bool [B, T]."""
    return np.zeros(ids_BT.shape, dtype=bool) if image_id.id is None else np.asarray(ids_BT == image_id.id)


def _ids_of(batch: Mapping[str, Any]) -> AnyArray:
    if not isinstance(batch, Mapping):
        raise InputError(
            f"batch: expected a dict with input_ids, got {type(batch).__name__}",
            "pass what the collator returns, such as next(iter(loader))",
        )
    ids = matrix_of(batch, "input_ids")
    if ids is None:
        found = ", ".join(map(str, batch)) or "nothing"
        raise InputError(f"batch: expected the key input_ids, got {found}", "pass what the collator returns")
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise InputError(
            f"batch['input_ids']: expected integers of shape [rows, tokens], got {ids.dtype} of shape "
            f"{list(ids.shape)}",
            "pass a batch of the collator instead of a single item of the data set",
        )
    return ids.astype(np.int64)


def _attended_of(batch: Mapping[str, Any], ids_BT: AnyArray) -> AnyArray:
    mask = None if isinstance(batch.get("attention_mask"), Mapping) else matrix_of(batch, "attention_mask")
    if mask is None or mask.ndim != 2:
        return np.ones(ids_BT.shape, dtype=bool)
    if mask.shape != ids_BT.shape:
        raise InputError(
            f"batch['attention_mask']: expected the shape of input_ids, {list(ids_BT.shape)}, got {list(mask.shape)}",
            "pad and truncate ids and mask together",
        )
    return np.asarray(mask != 0)


def _runs_of(row_T: AnyArray) -> tuple[tuple[int, int], ...]:
    edges = np.flatnonzero(np.diff(np.r_[0, row_T.astype(np.int8), 0]))
    return tuple((int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True))


def _packing_of(batch: Mapping[str, Any], attended_BT: AnyArray) -> Packing:
    if any(batch.get(key) is not None for key in BOUNDARIES):
        return Packing.BOUNDARIES
    positions = matrix_of(batch, "position_ids")
    if positions is None or positions.shape[-2:] != attended_BT.shape:
        return Packing.NONE
    return Packing.POSITIONS if restarts(positions, attended_BT) else Packing.NONE


def restarts(positions: AnyArray, attended_BT: AnyArray) -> list[int]:
    """Return the indices, in the flattened [B, T], at which position ids start again at 0 within a row.

    Within a sample, text positions and the first axis of M-RoPE (time) never decrease. A 0 after another position id
    is therefore the start of a new sample.

    Args:
        positions: the position ids, [B, T], or [axes, B, T] for M-RoPE.
        attended_BT: True at positions that are not padding, bool [B, T].
    """
    first_BT = positions.reshape(-1, *attended_BT.shape)[0]
    starts_BT = (first_BT == 0) & attended_BT
    starts_BT[:, 1:] &= ~starts_BT[:, :-1].copy() & attended_BT[:, :-1]
    starts_BT[:, 0] = False
    return [int(place) for place in np.flatnonzero(starts_BT)]


def _assign(
    pixels: Pixels, image_id: ImageId, runs: Runs, batch: Mapping[str, Any], processor: Any
) -> list[int] | Unassigned | None:
    """Return the row of each entry in order, or why it is not known; None if there is nothing to assign."""
    if pixels.layout is PixelLayout.UNKNOWN:
        return Unassigned.UNKNOWN_LAYOUT
    if pixels.layout is PixelLayout.ROWS or not pixels.entries:
        return None
    held = (shape_of(batch[str(pixels.key)]) or (0,))[0]
    if pixels.layout is PixelLayout.PATCHES and held != pixels.entries[-1].stop:
        return Unassigned.PATCHES_DIFFER
    count, tokens = len(pixels.entries), [entry.tokens for entry in pixels.entries]
    if (counts := _counts_of(batch, len(runs))) is not None and sum(counts) == count:
        return [row for row, images in enumerate(counts) for _ in range(images)]
    if image_id.id is None:
        return Unassigned.NO_IMAGE_ID
    by_run = [row for row, found in enumerate(runs) for _ in found]
    known = [number for number in tokens if number is not None]
    if len(known) == count:
        by_tokens = _by_tokens(known, runs)
        # Even if the numbers of tokens differ, one run of positions per image shows which row each image belongs to.
        return by_tokens or (by_run if len(by_run) == count else Unassigned.COUNTS_DIFFER)
    if len(by_run) == count:
        return by_run
    total = sum(stop - start for row in runs for start, stop in row)
    even = _by_tokens([total // count] * count, runs) if total % count == 0 else None
    stated = _stated_tokens(batch, count, processor)
    return even or (_by_tokens(stated, runs) if stated else None) or Unassigned.UNKNOWN_TOKENS


def _stated_tokens(batch: Mapping[str, Any], count: int, processor: Any) -> list[int] | None:
    """Return the numbers of visual tokens that the processor computes from image sizes (LLaVA-NeXT); None if it cannot.

    The processor's method is private, and in some processors it also counts delimiters. Its numbers are therefore used
    only to assign images to rows, and only if they match the image positions of every row.
    """
    sizes, method = matrix_of(batch, "image_sizes"), getattr(processor, "_get_num_multimodal_tokens", None)
    if method is None or sizes is None or sizes.shape != (count, 2):
        return None
    try:
        return [int(number) for number in method(image_sizes=sizes.astype(int).tolist())["num_image_tokens"]]
    except Exception:  # noqa: BLE001 - a private method of another library, whose arguments may change
        return None


def _counts_of(batch: Mapping[str, Any], rows: int) -> list[int] | None:
    """Return the number of images in each row if the batch contains these numbers, otherwise None."""
    for key in _COUNT_KEYS:
        counts = matrix_of(batch, key)
        if counts is not None and counts.size == rows:
            return [int(count) for count in counts.reshape(-1)]
    return None


def _by_tokens(tokens: list[int], runs: Runs) -> list[int] | None:
    """Return the row of each entry; None if the entries' tokens do not add up to the image positions of each row."""
    rows: list[int] = []
    for row, found in enumerate(runs):
        left = sum(stop - start for start, stop in found)
        while left > 0 and len(rows) < len(tokens):
            left -= tokens[len(rows)]
            rows.append(row)
        if left != 0:
            return None
    return rows if len(rows) == len(tokens) else None
