"""Converts visual tokens from one grid to another, so that images of different sizes can replace each other.

A *grid* is the shape of the array of an image's visual tokens. A *donor* is the sample that provides a wrong picture.
If a donor has another grid, its number of visual tokens may differ from the number of image positions in the prompt.
Each image position then gets the donor's token at the nearest relative position, which is computed for each axis.
Tokens are not averaged, so each is a real output of the encoder, but some are repeated or left out. The results state
how many donors are affected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eyechart.seam import Grid, VisualTokens


def resampled(visual: VisualTokens, given: Sequence[Grid], wanted: Sequence[Grid]) -> VisualTokens:
    """Convert the visual tokens of samples from the grids `given` to the grids `wanted`.

    If a sample needs more images than the donor has, the donor's images are repeated in their order; if it needs fewer,
    the first ones are used.

    Args:
        visual: the visual tokens of B samples; those of a sample with several images are concatenated.
        given: the grid of each image of each sample in `visual`.
        wanted: the new grid of each image of each sample.
    """
    if list(given) == list(wanted):
        return visual
    parts = []
    for place, (have, want, count) in enumerate(zip(given, wanted, visual.counts(), strict=True)):
        index_Q = _index(have, want)
        assert not len(index_Q) or int(index_Q.max()) < count, "a grid has as many places as there are tokens"
        parts.append(VisualTokens(tuple(layer[place : place + 1, index_Q] for layer in visual.layers)))
    return VisualTokens.cat(parts)


def _index(have: Grid, want: Grid) -> Tensor:
    """Return, for every new position, the index of the old token that is used there."""
    starts = [0]
    for grid in have:
        starts.append(starts[-1] + math.prod(grid))
    parts = []
    for image, grid in enumerate(want):
        donor = image % len(have)
        parts.append(starts[donor] + _nearest(have[donor], grid))
    return torch.cat(parts)


def _nearest(have: tuple[int, ...], want: tuple[int, ...]) -> Tensor:
    """Return the index [Q] of the nearest old token for every new position of one image.

    The nearest token is found for each axis separately. If the grids differ in their number of axes, both are flattened
    first.
    """
    if len(have) != len(want):
        have, want = (math.prod(have),), (math.prod(want),)
    places = torch.zeros(want, dtype=torch.long)
    for axis, (size, wanted) in enumerate(zip(have, want, strict=True)):
        centre_K = (torch.arange(wanted, dtype=torch.float64) + 0.5) * size / wanted
        nearest_K = centre_K.long().clamp_max(size - 1)
        shape = [1] * len(want)
        shape[axis] = wanted
        places = places * size + nearest_K.view(shape)
    return places.flatten()
