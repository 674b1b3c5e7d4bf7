"""Converts the pixels of a batch to pictures, and reads the settings with which a processor normalises them.

Dimension suffixes: C colours, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyechart.processors.arrays import AnyArray, to_numpy
from eyechart.processors.geometry import Geometry
from eyechart.processors.pixel_entries import Entry, PixelLayout

_COLOURS = 3


@dataclass(frozen=True)
class Normalisation:
    """How an image processor normalises byte values: (byte * rescale - mean) / std, per colour."""

    rescale: float
    """1/255 to scale bytes to 0..1; 1 to keep them."""
    mean: tuple[float, ...]
    """Per colour, after rescaling; 0 if the processor does not normalise."""
    std: tuple[float, ...]
    """Per colour, after rescaling; 1 if the processor does not normalise."""

    @property
    def lowest(self) -> float:
        """The normalised value of byte 0, in the colour in which it is lowest."""
        return min(-mean / std for mean, std in zip(self.mean, self.std, strict=True))

    @property
    def highest(self) -> float:
        """The normalised value of byte 255, in the colour in which it is highest."""
        return max((255 * self.rescale - mean) / std for mean, std in zip(self.mean, self.std, strict=True))

    def bytes_of(self, image_CHW: AnyArray) -> AnyArray:
        """Undo the normalisation of values [C, ...]; return byte values that are not rounded."""
        shape = (len(self.mean), *[1] * (image_CHW.ndim - 1))
        mean, std = np.reshape(self.mean, shape), np.reshape(self.std, shape)
        return np.asarray((image_CHW * std + mean) / self.rescale)


def normalisation_of(processor: Any) -> Normalisation | None:
    """Return how a processor normalises images; None if it has no image processor with these settings."""
    image_processor = getattr(processor, "image_processor", None)
    if image_processor is None or not hasattr(image_processor, "do_rescale"):
        return None
    if getattr(image_processor, "rescale_offset", None) or getattr(image_processor, "offset", None):
        return None  # rescaled in another way
    rescale = float(image_processor.rescale_factor) if image_processor.do_rescale else 1.0
    if not getattr(image_processor, "do_normalize", False):
        return Normalisation(rescale, (0.0,) * _COLOURS, (1.0,) * _COLOURS)
    mean, std = (np.asarray(getattr(image_processor, name), dtype=float) for name in ("image_mean", "image_std"))
    if mean.shape != (_COLOURS,) or std.shape != (_COLOURS,) or (std <= 0).any():
        return None
    return Normalisation(rescale, tuple(mean.tolist()), tuple(std.tolist()))


def entry_pixels(batch: Mapping[str, Any], geometry: Geometry, entry: Entry, processor: Any = None) -> AnyArray | None:
    """Return the normalised pixels of an entry as [C, H, W]; None if their order is not known.

    Patches (the Qwen families) are reassembled, for which the processor's patch size is needed. If an entry has several
    tiles or several points in time, the first is returned.
    """
    if geometry.pixels.key is None:
        return None
    try:
        found = numbers_of(batch, geometry, entry)
    except TypeError:
        return None
    if geometry.pixels.layout is PixelLayout.PATCHES:
        return _from_patches(found, geometry, entry, processor)
    while found.ndim > 3:
        found = found[0]
    if found.ndim != 3:
        return None
    if found.shape[0] != _COLOURS and found.shape[2] == _COLOURS:
        found = np.moveaxis(found, 2, 0)
    return found if found.shape[0] == _COLOURS else None


def numbers_of(batch: Mapping[str, Any], geometry: Geometry, entry: Entry) -> AnyArray:
    """Return the pixel values of an entry in the batch's own form: [C, H, W], [tiles, C, H, W] or [patches, values].

    Raises:
        TypeError: the values are not numeric or are ragged.
    """
    pixels, layout = batch[str(geometry.pixels.key)], geometry.pixels.layout
    if layout is PixelLayout.ROWS:
        return to_numpy(pixels[entry.row][entry.start])
    return to_numpy(pixels[entry.start : entry.stop] if layout is PixelLayout.PATCHES else pixels[entry.start])


def one_colour(values: AnyArray) -> bool:
    """Return whether an image has no detail: [C, ...], or patches [N, D] of C equal parts, in any normalisation."""
    flat = values.reshape(-1)
    if (flat == flat[0]).all():
        return True
    parts = flat.reshape(len(values), -1) if values.ndim >= 3 else None
    if values.ndim == 2 and values.shape[1] % 3 == 0:
        parts = np.moveaxis(values.reshape(len(values), 3, -1), 1, 0).reshape(3, -1)
    return parts is not None and bool((parts == parts[:, :1]).all())


def picture(image_CHW: AnyArray, normalisation: Normalisation | None) -> Image.Image:
    """Convert normalised pixels to a picture; if `normalisation` is None, their range is scaled to 0..255."""
    if normalisation is not None:
        bytes_CHW = normalisation.bytes_of(image_CHW)
    else:
        low, high = float(image_CHW.min()), float(image_CHW.max())
        bytes_CHW = (image_CHW - low) * (255 / (high - low) if high > low else 0)
    shown: npt.NDArray[np.uint8] = np.nan_to_num(bytes_CHW).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(shown, 0, 2)))


def _from_patches(patches_PD: AnyArray, geometry: Geometry, entry: Entry, processor: Any) -> AnyArray | None:
    """Reassemble patches C x time x p x p from their order (rows of cells, cells, rows within a cell, columns)."""
    merge = geometry.pixels.merge
    side = getattr(getattr(processor, "image_processor", None), "patch_size", None)
    if merge is None or entry.grid is None or not isinstance(side, int):
        return None
    _, rows, columns = entry.grid
    depth = patches_PD.shape[1] // (_COLOURS * side * side)
    if depth * _COLOURS * side * side != patches_PD.shape[1] or rows % merge or columns % merge:
        return None
    first_PD = patches_PD[: rows * columns]
    if len(first_PD) < rows * columns:
        return None
    cells = first_PD.reshape(rows // merge, columns // merge, merge, merge, _COLOURS, depth, side, side)[
        :, :, :, :, :, 0
    ]
    return np.asarray(cells.transpose(4, 0, 2, 5, 1, 3, 6).reshape(_COLOURS, rows * side, columns * side))
