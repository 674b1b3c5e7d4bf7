"""Visual tokens of one arrangement brought to another, so that images of different sizes can replace each other.

A donor with another grid would be encoded to another number of visual tokens than the prompt has positions for. Every
own position then gets the donor's token at the nearest relative place, axis by axis. Nothing is averaged, so each token
is one that the encoder made, but some tokens are repeated or left out; results count such donors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eyechart.seam import Grid, VisualTokens


def resampled(visual: VisualTokens, given: Sequence[Grid], wanted: Sequence[Grid]) -> VisualTokens:
    """Bring the visual tokens of samples with the grids `given` to the grids `wanted`.

    If a sample needs more images than the donor has, the donor's images are repeated in their order; if it needs fewer,
    the first ones are used.

    Args:
        visual: visual tokens of B samples; the tokens of the images of one sample follow each other.
        given: grid of each sample of `visual`.
        wanted: grid that each of them is brought to.
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
    """Return, for every wanted token, the index of the given token that is used for it."""
    starts = [0]
    for grid in have:
        starts.append(starts[-1] + math.prod(grid))
    parts = []
    for image, grid in enumerate(want):
        donor = image % len(have)
        parts.append(starts[donor] + _nearest(have[donor], grid))
    return torch.cat(parts)


def _nearest(have: tuple[int, ...], want: tuple[int, ...]) -> Tensor:
    """Return the index [Q] of the nearest token within one image; axes are compared if there are equally many."""
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
