"""Changes of the picture before the tower: what stays, what goes, and that neither batch nor neighbour matters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyechart.reporting.remarks import sentence
from eyechart.results import Remark
from eyechart.scoring.pixels import BLUR_SHARE, PIXEL_CHANGES, blurred, derangement, grey, remainder, tiles


def picture(height=16, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def test_grey_is_the_same_blank_picture_for_everybody():
    assert torch.equal(grey(picture(), 1, 42), torch.full((3, 16, 16), 128, dtype=torch.uint8))
    assert torch.equal(grey(picture(), 1, 42), grey(picture(seed=1), 2, 43))


def test_blur_equals_weighted_sums_over_every_pixel():
    pixels, side = picture(8, 12), (8, 12)
    sigma = [BLUR_SHARE * length for length in side]
    got = blurred(pixels, 0, 0)
    for y, x in ((0, 0), (3, 5), (7, 11), (4, 0)):
        weights = np.array(
            [
                [
                    math.exp(-((y - j) ** 2) / (2 * sigma[0] ** 2) - (x - i) ** 2 / (2 * sigma[1] ** 2))
                    for i in range(12)
                ]
                for j in range(8)
            ]
        )
        for channel in range(3):
            expected = (pixels[channel].double().numpy() * weights).sum() / weights.sum()
            assert int(got[channel, y, x]) == pytest.approx(expected, abs=0.501)


def test_a_plain_image_stays_as_it_is_when_blurred_and_detail_goes():
    plain = torch.full((3, 16, 16), 201, dtype=torch.uint8)
    assert torch.equal(blurred(plain, 0, 0), plain)
    board = (torch.arange(64)[:, None] + torch.arange(64)[None]).remainder(2).mul(255).to(torch.uint8).expand(3, 64, 64)
    smooth = blurred(board, 0, 0)[:, 8:-8, 8:-8].float()
    assert (smooth - 127.5).abs().max() <= 1, "a fine chequerboard is grey from afar"
    halves = torch.zeros(3, 64, 64, dtype=torch.uint8)
    halves[:, :, 32:] = 255
    assert int(blurred(halves, 0, 0)[0, 32, 8]) == 0 and int(blurred(halves, 0, 0)[0, 32, 56]) == 255


def blocks(pixels, grid):
    """Tiles by place, as bytes."""
    high, wide = pixels.shape[1] // grid, pixels.shape[2] // grid
    return [
        pixels[:, y * high : (y + 1) * high, x * wide : (x + 1) * wide].contiguous().numpy().tobytes()
        for y in range(grid)
        for x in range(grid)
    ]


@pytest.mark.parametrize(("grid", "height", "width"), [(2, 16, 16), (4, 16, 32), (8, 16, 16), (4, 18, 19)])
def test_all_tiles_are_still_there_and_none_in_its_place(grid, height, width):
    pixels = picture(height, width)
    for row in range(5):
        got = tiles(grid)(pixels, row, 42)
        before, after = blocks(pixels, grid), blocks(got, grid)
        assert sorted(before) == sorted(after)
        assert not any(a == b for a, b in zip(before, after, strict=True))
        high, wide = height // grid * grid, width // grid * grid
        assert torch.equal(got[:, high:], pixels[:, high:]) and torch.equal(got[:, :, wide:], pixels[:, :, wide:])


def test_tiles_are_drawn_by_row_and_seed_and_leave_the_picture_alone():
    pixels = picture()
    kept = pixels.clone()
    first = tiles(4)(pixels, 1, 42)
    assert torch.equal(first, tiles(4)(pixels, 1, 42)) and torch.equal(pixels, kept)
    assert not torch.equal(first, tiles(4)(pixels, 2, 42))
    assert not torch.equal(first, tiles(4)(pixels, 1, 43))


@given(st.integers(2, 64), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_derangement_moves_everything(size, row, seed):
    got = derangement(size, row, seed)
    assert sorted(got) == list(range(size)) and (got != np.arange(size)).all()


def test_derangements_are_about_equally_likely():
    drawn = [tuple(derangement(4, row, 0)) for row in range(900)]
    counts = [drawn.count(each) for each in set(drawn)]
    assert len(counts) == 9 and min(counts) > 60, "4 things have 9 derangements, each expected 100 times"


def test_images_that_are_too_small_for_their_tiles_are_refused():
    with pytest.raises(ValueError, match="tiles-8: expected images of at least 8x8 pixels, got 16x6"):
        tiles(8)(picture(16, 6), 0, 0)


def test_pixels_that_tiles_leave_in_place_are_said():
    assert remainder("tiles-4", 64, 64) == remainder("blurred", 62, 62) == {}
    left = remainder("tiles-4", 62, 63)
    assert (left["rows"], left["columns"]) == (2, 3)
    said = sentence(Remark(code="pixels-left-in-place", about="tiles-4", figures=left))
    assert "2 pixels high at the bottom and 3 pixels wide on the right" in said


def test_every_change_keeps_shape_and_type():
    for change in PIXEL_CHANGES.values():
        got = change(picture(16, 24), 3, 42)
        assert got.shape == (3, 16, 24) and got.dtype == torch.uint8
