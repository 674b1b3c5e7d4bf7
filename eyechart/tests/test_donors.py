"""Donors: disjoint derangements without equal images or captions, and every one that exists is found."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyechart.scoring import donors as module
from eyechart.scoring.donors import draw_donors


def names(numbers, prefix):
    return [f"{prefix}{number}" for number in numbers]


def draw(images, captions, requested, seed=0):
    return draw_donors(names(images, "i"), names(captions, "c"), requested, seed)


def most_by_brute_force(images, captions, requested):
    """Largest number (up to `requested`) of disjoint derangements, by trying everything."""
    size = len(images)
    fitting = [
        p
        for p in permutations(range(size))
        if all(images[i] != images[j] and captions[i] != captions[j] for i, j in enumerate(p))
    ]

    def extend(chosen, start):
        if len(chosen) == requested:
            return requested
        best = len(chosen)
        for k in range(start, len(fitting)):
            if all(a != b for other in chosen for a, b in zip(fitting[k], other, strict=True)):
                best = max(best, extend([*chosen, fitting[k]], k + 1))
                if best == requested:
                    break
        return best

    return extend([], 0)


def assert_valid(donors, images, captions):
    size = len(images)
    used = set()
    for column in donors.table_SR.T:
        assert sorted(column) == list(range(size)), "every image is used once"
        for own, donor in enumerate(column.tolist()):
            assert images[own] != images[donor]
            assert captions[own] != captions[donor]
            assert (own, donor) not in used, "no pair twice"
            used.add((own, donor))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_as_many_derangements_are_found_as_exist_and_each_is_valid(pairs, requested, seed):
    images, captions = [p[0] for p in pairs], [p[1] for p in pairs]
    got = draw(images, captions, requested, seed)
    assert_valid(got, images, captions)
    assert got.found == most_by_brute_force(images, captions, requested)
    assert bool(got.shortage) == (got.found < requested)


@given(st.integers(10, 60), st.integers(3, 8), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_captions_that_repeat_still_get_four_donors(samples, kinds, seed):
    images = list(range(samples))
    captions = [i % kinds for i in range(samples)]
    got = draw(images, captions, 4, seed)
    assert_valid(got, images, captions)
    # Each sample may take any donor of another kind: at least 4 where every kind leaves 4 others (regular enough).
    if samples - -(-samples // kinds) * 2 >= 4:
        assert got.found == 4


def test_a_tight_majority_is_solved_where_swaps_cannot():
    # Exactly half of the captions are equal: every donor must come from the other half, in a complete bipartite way.
    captions = [0] * 10 + list(range(1, 11))
    got = draw(range(20), captions, 4)
    assert got.found == 4
    assert_valid(got, list(range(20)), captions)


def test_the_exact_search_alone_finds_all_disjoint_derangements(monkeypatch):
    monkeypatch.setattr(module, "_draw_by_swaps", lambda allowed, requested, generator: [])
    # 7 samples have exactly 6 disjoint derangements (a Latin square without its diagonal).
    got = draw(range(7), range(7), 6)
    assert got.found == 6
    assert_valid(got, list(range(7)), list(range(7)))


def test_more_than_exist_is_said_with_the_counts():
    got = draw([0, 0, 0, 1, 2], range(5), 2)
    assert got.found == 0
    assert got.table_SR.shape == (5, 0)
    assert (got.shortage["found"], got.shortage["requested"], got.shortage["samples"]) == (0, 2, 5)
    assert (got.shortage["same_image"], got.shortage["same_caption"]) == (3, 1)


@pytest.mark.parametrize("size", [0, 1])
def test_nobody_to_lend(size):
    got = draw(range(size), range(size), 2)
    assert got.found == (2 if size == 0 else 0)


def test_two_samples_swap_once():
    got = draw([0, 1], [0, 1], 4)
    assert got.table_SR.tolist() == [[1], [0]]
    assert got.shortage


def test_the_seed_decides():
    first, again, other = (draw(range(50), range(50), 4, seed).table_SR for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_donor_is_about_equally_likely():
    counts = np.zeros((6, 6))
    for seed in range(600):
        column = draw(range(6), range(6), 1, seed).table_SR[:, 0]
        counts[np.arange(6), column] += 1
    assert counts.diagonal().sum() == 0
    others = counts[~np.eye(6, dtype=bool)]
    assert others.min() > 75 and others.max() < 170  # expected 120, standard deviation about 10
