"""One image that carries the gap is named; a hundred that share it are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyechart.scoring.donors import draw_donors
from eyechart.verdict import statistics
from eyechart.verdict.influence import one_image, warning
from eyechart.verdict.statistics import Pairs
from eyechart.verdict.verdict import Gate


def draw(seed=0, samples=40, rounds=4, images=None, mean=0.6, sd=2.0):
    generator = np.random.default_rng(seed)
    clusters = np.arange(samples) if images is None else np.arange(samples) % images
    tokens = generator.integers(4, 15, size=samples)
    donors = draw_donors([str(c) for c in clusters], [str(i) for i in range(samples)], rounds, seed).table_SR
    assert donors.shape == (samples, rounds)
    return mean * tokens[:, None] + generator.normal(0, sd, size=donors.shape), tokens, clusters, donors


def judged(differences, tokens, clusters, donors, margin=0.05):
    gate = Gate.of("shuffled", margin, statistics.estimate(differences, tokens, clusters, donors), 3)
    return one_image(Pairs.of(differences, tokens, clusters, donors), gate), gate


@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 3))
def test_over_all_pairs_the_estimate_is_the_one_over_the_full_table(seed, per_image, rounds):
    differences, tokens, clusters, donors = draw(seed, 15 * per_image // 2, rounds, images=10)
    got = Pairs.of(differences, tokens, clusters, donors).estimate()
    whole = statistics.estimate(differences, tokens, clusters, donors)
    assert (got.gap, got.clusters) == (pytest.approx(whole.gap), whole.clusters)
    assert got.se == pytest.approx(whole.se)


def test_without_an_image_the_gap_and_its_error_equal_brute_force():
    differences, tokens, clusters, donors = draw(1, 24, 3, images=9)
    pairs = Pairs.of(differences, tokens, clusters, donors)
    for image in range(9):
        kept = [
            (int(clusters[i]), int(clusters[donors[i, r]]), differences[i, r], tokens[i])
            for i in range(24)
            for r in range(3)
            if image not in (clusters[i], clusters[donors[i, r]])
        ]
        total = sum(t for *_, t in kept)
        gap = sum(d for _, _, d, _ in kept) / total
        assert pairs.gaps_without_each()[image] == pytest.approx(gap)
        plain = dyadic = 0.0
        for own, donor, d, t in kept:
            for own2, donor2, d2, t2 in kept:
                product = (d - t * gap) * (d2 - t2 * gap)
                plain += product * (own == own2)
                shared = (own == own2) + (own == donor2) + (donor == own2) + (donor == donor2)
                dyadic += product * (shared - (own == own2 and donor == donor2))
        got = pairs.without(image).estimate()
        assert got.gap == pytest.approx(gap)
        assert got.se == pytest.approx((8 / 7 * max(plain, dyadic)) ** 0.5 / total)


@pytest.mark.parametrize("seed", range(5))
def test_a_gap_that_all_images_share_raises_no_warning(seed):
    assert judged(*draw(seed, 100))[0] is None
    assert judged(*draw(seed, 100, images=50))[0] is None


def vivid(size=400.0, samples=100):
    """Only one image has a gap: it helps its own captions a lot and misleads those that get it as a wrong picture."""
    differences, tokens, clusters, donors = draw(3, samples, mean=0.0, sd=0.5)
    differences = differences + size * ((np.arange(samples) == 17)[:, None] | (donors == 17))
    return differences, tokens, clusters, donors


def test_one_vivid_image_in_a_hundred_is_named_with_what_is_left_without_it():
    found, gate = judged(*vivid())
    assert found.image == 17 and found.share > 0.9
    assert abs(found.without.gap) < 0.05 < gate.estimate.gap
    reason = warning(found, gate, row=170, image="images/17.png")
    assert (reason.code, reason.effect, reason.about) == ("one-image-carries", "warns", "shuffled")
    assert (reason.figures["row"], reason.figures["image"]) == (170, "images/17.png")
    assert (reason.figures["gap_without"], reason.figures["gap"]) == (found.without.gap, gate.estimate.gap)


def test_an_image_that_decides_where_the_gate_stands_is_named_whichever_way():
    differences, tokens, clusters, donors = draw(4, 100, mean=0.4, sd=0.5)
    assert judged(differences, tokens, clusters, donors)[0] is None
    differences[5] -= 400.0  # one caption that any wrong picture helps: the rest would pass
    found, gate = judged(differences, tokens, clusters, donors)
    assert found.image == 5 and (found.before, found.after) == ("open", "costs") and found.decides
    reason = warning(found, gate, 5, "5.png")
    assert reason.code == "one-image-decides"
    assert (reason.figures["standing"], reason.figures["standing_without"]) == ("open", "costs")


def test_a_share_of_a_gap_within_the_margin_says_nothing():
    differences, tokens, clusters, donors = vivid(size=20.0)
    found, gate = judged(differences, tokens, clusters, donors, margin=10.0)
    assert found is None and gate.estimate.gap < 10


def test_equal_losses_and_very_few_images_name_nobody():
    differences, tokens, clusters, donors = draw(5, 12, rounds=2)
    assert judged(np.zeros_like(differences), tokens, clusters, donors)[0] is None
    pair = np.array([[1.0], [5.0]]), np.array([3, 3]), np.arange(2), np.array([[1], [0]])
    assert judged(*pair)[0] is None
