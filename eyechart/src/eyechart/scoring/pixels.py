"""Changes pictures before the vision tower encodes them: functions from uint8 pixels to uint8 pixels.

Each function defines a condition of check 1, which measures how much the change raises the loss.

    grey      every pixel is mid grey (128), a blank picture. The image's own mean colour is not used, because it would
              still show the background of a scene
    blurred   Gaussian blur with a standard deviation of 1/16 of the side: colours and rough layout remain, details are
              lost
    tiles-g   cut into g x g tiles, each moved to another position: the tiles' contents remain, their positions are lost

Each image is changed separately, and the change depends only on its pixels, its row and the seed, not on the batch.
Tiles are moved in the PICTURE, so the tower sees new edges and objects in pieces. Permuting the tower's output would be
a different test: a resampler whose attention keys have no position embeddings is exactly invariant to such a
permutation. Neither test is enough to show that a model ignores spatial positions.

Dimension suffixes: C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

PixelChange = Callable[[Tensor, int, int], Tensor]
"""(uint8 pixels [C,H,W], row, seed) -> uint8 pixels [C,H,W]."""

BLUR_SHARE = 1 / 16
"""The standard deviation of the blur, divided by the side of the image."""
_MID_GREY = 128
_STREAM = 6
"""The second element of the seed sequence, which makes the draw of tiles independent of those of donors and noise."""


def grey(pixels_CHW: Tensor, row: int, seed: int) -> Tensor:
    """Return an image whose pixels are all mid grey."""
    return torch.full_like(pixels_CHW, _MID_GREY)


def blurred(pixels_CHW: Tensor, row: int, seed: int) -> Tensor:
    """Blur an image with a Gaussian.

    The weights sum to one even at the border, so an image of one colour does not change.
    """
    height, width = pixels_CHW.shape[1:]
    # Images are blurred one by one, because rounding in a matrix product over a batch may depend on the batch size.
    smooth_CHW = _gaussian(height) @ pixels_CHW.float() @ _gaussian(width).T
    return smooth_CHW.round().clamp(0, 255).to(torch.uint8)


def _gaussian(side: int) -> Tensor:
    """Return the blur weights [side, side]; row i contains the weight of each old pixel in the new pixel i."""
    positions = torch.arange(side, dtype=torch.float64)
    distance = (positions[:, None] - positions[None, :]) / (BLUR_SHARE * side)
    weights = torch.exp(-0.5 * distance.square())
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def tiles(grid: int) -> PixelChange:
    """Return a function that cuts an image into grid x grid tiles and moves each tile to another position.

    The side of a tile is floor(image side / grid) pixels. Remaining pixels at the right and lower edges are not moved.
    """

    def change(pixels_CHW: Tensor, row: int, seed: int) -> Tensor:
        channels, height, width = pixels_CHW.shape
        high, wide = height // grid, width // grid
        if not high or not wide:
            raise ValueError(
                f"tiles-{grid}: expected images of at least {grid}x{grid} pixels, got {height}x{width}; "
                f"leave tiles-{grid} out"
            )
        used_CHW = pixels_CHW[:, : high * grid, : wide * grid]
        parts = used_CHW.reshape(channels, grid, high, grid, wide).permute(1, 3, 0, 2, 4).flatten(0, 1)
        moved = parts[torch.from_numpy(derangement(grid * grid, row, seed))]
        out_CHW = pixels_CHW.clone()
        out_CHW[:, : high * grid, : wide * grid] = (
            moved.view(grid, grid, channels, high, wide).permute(2, 0, 3, 1, 4).reshape(used_CHW.shape)
        )
        return out_CHW

    return change


def derangement(size: int, row: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Draw a permutation of 0..size-1 without a fixed point, uniformly among all such permutations.

    The draw depends only on (seed, row, size).
    """
    generator = np.random.default_rng([seed, _STREAM, row, size])
    while True:  # about 1 in e permutations has no fixed point
        drawn = generator.permutation(size)
        if (drawn != np.arange(size)).all():
            return drawn.astype(np.int64)


_GRIDS = {"tiles-2": 2, "tiles-4": 4, "tiles-8": 8}
PIXEL_CHANGES: dict[str, PixelChange] = {
    "grey": grey,
    "blurred": blurred,
    **{name: tiles(grid) for name, grid in _GRIDS.items()},
}


def remainder(name: str, height: int, width: int) -> dict[str, int]:
    """Return the numbers of pixels at the bottom and on the right that a condition with tiles does not move.

    The result is empty if all pixels are moved, or if the condition has no tiles.
    """
    grid = _GRIDS.get(name)
    if grid is None or not (height % grid or width % grid):
        return {}
    return {"height": height, "width": width, "grid": grid, "rows": height % grid, "columns": width % grid}
