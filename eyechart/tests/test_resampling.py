"""Visual tokens brought from one grid to another, and donors of the own grid first."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eyechart.rows import Grid
from eyechart.scoring.donors import draw_within_grids
from eyechart.scoring.resampling import resampled
from eyechart.seam import VisualTokens


def tokens(*counts: int) -> VisualTokens:
    """Token q of every image has the value q."""
    return VisualTokens.of([torch.arange(float(count))[:, None] for count in counts])


def values(visual: VisualTokens, image: int) -> list[int]:
    return [int(value) for value in visual.layers[0][image, : visual.counts()[image], 0]]


def test_equal_grids_change_nothing() -> None:
    visual = tokens(6, 4)
    grids: list[Grid] = [((2, 3),), ((2, 2),)]
    assert resampled(visual, grids, grids) is visual


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [
        (((2, 2),), ((4, 2),), [0, 1, 0, 1, 2, 3, 2, 3]),
        (((4, 2),), ((2, 2),), [2, 3, 6, 7]),
        (((1, 6),), ((1, 3),), [1, 3, 5]),
        (((4,),), ((2, 2),), [0, 1, 2, 3]),  # axes of another kind: in reading order
        (((2,), (3,)), ((2,),), [0, 1]),  # fewer images: the first ones
        (((2,),), ((2,), (1,)), [0, 1, 1]),  # more images: the donor's again
    ],
)
def test_every_place_gets_the_token_of_the_nearest_place(have: Grid, want: Grid, expected: list[int]) -> None:
    count = sum(int(np.prod(grid)) for grid in have)
    assert values(resampled(tokens(count), [have], [want]), 0) == expected


def test_images_of_different_grids_keep_their_own_numbers_of_tokens() -> None:
    both = resampled(tokens(4, 2), [((2, 2),), ((1, 2),)], [((1, 2),), ((2, 2),)])
    assert both.counts() == [2, 4] and values(both, 1) == [0, 1, 0, 1]


def names(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def test_donors_have_the_own_grid_if_every_grid_has_enough_samples() -> None:
    grids: list[Grid] = [((2, 2),), ((1, 4),)] * 6
    donors = draw_within_grids(grids, names(12), names(12), 4, 42)
    assert donors.found == 4 and not donors.shortage
    assert all(grids[own] == grids[donor] for own, row_R in enumerate(donors.table_SR) for donor in row_R)
    assert all(sorted(column_S) == list(range(12)) for column_S in donors.table_SR.T)
    assert all(own not in row_R for own, row_R in enumerate(donors.table_SR))


def test_a_grid_of_one_sample_joins_the_smallest_other_grid() -> None:
    grids: list[Grid] = [((2, 2),)] * 5 + [((1, 4),)] * 3 + [((3, 1),)]
    donors = draw_within_grids(grids, names(9), names(9), 1, 42)
    crossed = [own for own, row_R in enumerate(donors.table_SR) if grids[own] != grids[row_R[0]]]
    assert donors.found == 1 and 8 in crossed and not any(own < 5 for own in crossed)


def test_too_few_samples_give_the_reason_of_all_of_them() -> None:
    donors = draw_within_grids([((2, 2),), ((1, 4),)], names(2), ["same", "same"], 2, 42)
    assert donors.found == 0 and donors.shortage["samples"] == 2
