"""Matching: every figure against brute force or a closed form, and the controls that must come out at chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyechart.progress import SilentBar
from eyechart.reporting.readings import amounts
from eyechart.results import Matching
from eyechart.scoring.matching import (
    best_temperature,
    emap_gains,
    graded,
    infonce_terms,
    match,
    recall_at_1,
    reciprocal_rank,
)
from eyechart.scoring.pairs import Captions, draw_candidates, score_pairs
from eyechart.scoring.ranks import Ranks
from eyechart.seam import IGNORE_INDEX, Batch, PairScorer, Sample, TokenNLL, VisualTokens
from eyechart.settings import AblationSettings
from eyechart.verdict.pair_statistics import bootstrap_mean
from fake_scorers import Constant, Healthy, NotInjected, make_sample

SETTINGS = AblationSettings(matching_k=6, batch_size=64)


class Table:
    """log p(caption i | image j) is scores_SS[i, j], dealt out evenly over the tokens; images carry their place."""

    def __init__(self, scores_SS: np.ndarray) -> None:
        self.scores_SS = scores_SS
        self.sizes: list[int] = []

    def encode(self, batch: Batch) -> VisualTokens:
        raise AssertionError("matching gets its visual tokens from the caller")

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        assert visual is not None and batch.pixels_BCHW is None
        self.sizes.append(len(batch))
        images = visual.layers[0][:, 0, 0].long().tolist()
        parts = [
            torch.full((n := sample.label_tokens,), -self.scores_SS[sample.row, image] / n, dtype=torch.float64)
            for sample, image in zip(batch.samples, images, strict=True)
        ]
        return TokenNLL(torch.cat(parts), torch.tensor([len(part) for part in parts]))


class PairTable(Table):
    """The same, reading each image once."""

    def __init__(self, scores_SS: np.ndarray) -> None:
        super().__init__(scores_SS)
        self.read: Counter[int] = Counter()

    def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
        self.read.update(visual.layers[0][:, 0, 0].long().tolist())
        return self.nll(batch, visual.rows(images_B))


def numbered(count: int) -> VisualTokens:
    return VisualTokens((torch.arange(count).float()[:, None, None],))


def samples_of(count: int) -> list[Sample]:
    return [make_sample(row) for row in range(count)]


def run(
    scorer: Table, count: int, features: np.ndarray | None = None, settings: AblationSettings = SETTINGS
) -> Matching:
    return match(scorer, Captions(samples_of(count), numbered(count), features), settings, seed=3)


@pytest.fixture(scope="module")
def scores_SS() -> np.ndarray:
    """30 captions and images: a real effect, caption priors, hub images, noise."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(30, 30))
    return 1.0 * np.eye(30) - 20 + 3 * rng.normal(size=(30, 1)) + rng.normal(size=(1, 30)) + noise


@pytest.fixture(scope="module")
def features_SV() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(30, 4))


def candidates(features: np.ndarray | None = None, k: int = 6, count: int = 30):
    each = np.arange(count)
    return draw_candidates(each, each, features, k, 32, seed=3)


def test_every_figure_is_what_brute_force_gives(scores_SS: np.ndarray, features_SV: np.ndarray) -> None:
    found, got = candidates(features_SV), run(Table(scores_SS), 30, features_SV)
    hits, hard, inverse, gains = [], [], [], []
    for i in range(30):
        own = scores_SS[i, i]
        others = [scores_SS[i, j] for j in found.random_SK[i]]
        hits.append(own > max(others))
        inverse.append(1 / (1 + sum(other > own for other in others)))
        gains.append(own - sum(others) / 5)
        cosines = {
            j: features_SV[i] @ features_SV[j] / np.linalg.norm(features_SV[i]) / np.linalg.norm(features_SV[j])
            for j in range(30)
            if j != i
        }
        nearest = sorted(cosines, key=lambda j: -cosines[j])[:5]
        assert nearest == found.hard_SK[i].tolist()
        hard.append(own > max(scores_SS[i, j] for j in nearest))
    block = scores_SS[np.ix_(found.block_M, found.block_M)]
    assert (got.k, got.captions, len(found.block_M)) == (6, 30, 30)
    assert got.r_at_1.value == pytest.approx(np.mean(hits)) and 0 < np.mean(hits) < 1
    assert got.hard_r_at_1.value == pytest.approx(np.mean(hard))
    assert got.mrr.value == pytest.approx(np.mean(inverse))
    assert got.image_specific_gain.value == pytest.approx(np.mean(gains))
    assert got.emap_gain is not None and got.emap_gain.value == pytest.approx(block.trace() / 30 - block.mean())


def test_a_scorer_that_takes_pairs_gives_the_same_and_reads_each_image_once(
    scores_SS: np.ndarray, features_SV: np.ndarray
) -> None:
    plain, paired = Table(scores_SS), PairTable(scores_SS)
    assert isinstance(paired, PairScorer) and not isinstance(plain, PairScorer)
    assert run(paired, 30, features_SV) == run(plain, 30, features_SV)
    assert paired.read == Counter(range(30))
    assert max(plain.sizes) <= SETTINGS.batch_size < max(paired.sizes)


def test_more_captions_than_fit_behind_one_image_are_cut_and_none_is_lost() -> None:
    scorer = PairTable(np.random.default_rng(0).normal(size=(150, 150)))
    pairs_P2 = np.stack([np.tile(np.arange(150), 2), np.repeat([4, 7], 150)], axis=1)
    scores = score_pairs(scorer, Captions(samples_of(150), numbered(150)), pairs_P2, 8, SilentBar(), Ranks())
    assert scores.scores_P == pytest.approx(scorer.scores_SS[pairs_P2[:, 0], pairs_P2[:, 1]])
    assert scorer.read == {4: 2, 7: 2} and max(scorer.sizes) == 128


def test_two_processes_share_the_pairs_and_end_with_the_same_scores(scores_SS: np.ndarray) -> None:
    pairs_P2, theirs = candidates().pairs(), []

    whole = score_pairs(Table(scores_SS), Captions(samples_of(30), numbered(30)), pairs_P2, 5, SilentBar(), Ranks())
    second = Ranks(1, 2, lambda value: theirs.append(value) or [dict.fromkeys(range(999), np.zeros(1)), value])
    score_pairs(Table(scores_SS), Captions(samples_of(30), numbered(30)), pairs_P2, 5, SilentBar(), second)
    first = Ranks(0, 2, lambda value: [value, theirs[0]])
    got = score_pairs(Table(scores_SS), Captions(samples_of(30), numbered(30)), pairs_P2, 5, SilentBar(), first)
    assert np.array_equal(got.scores_P, whole.scores_P) and 0 < len(theirs[0]) < len(pairs_P2) / 5


def test_bit_equal_scores_give_chance_and_not_certainty() -> None:
    got = run(Table(np.full((30, 30), -7.0)), 30)
    assert got.r_at_1.value == pytest.approx(1 / 6) and got.r_at_1.ci95 == pytest.approx((1 / 6, 1 / 6))
    assert got.mrr.value == pytest.approx(1 / 3.5)
    assert got.image_specific_gain.value == 0 and got.infonce.value == pytest.approx(0)
    assert got.r_at_1.standing == "ruled out" and got.infonce.standing == "ruled out"


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=6), st.integers(-2, 2))
def test_ties_share_the_point_and_the_rank(others: list[int], own: int) -> None:
    own_S, others_SK = np.array([float(own)]), np.array([others], dtype=np.float64)
    best = max([own, *others])
    share = 1 / [own, *others].count(best) if own == best else 0
    ranks = [place for place, score in enumerate(sorted([own, *others], reverse=True), start=1) if score == own]
    assert recall_at_1(own_S, others_SK)[0] == pytest.approx(share)
    assert reciprocal_rank(own_S, others_SK)[0] == pytest.approx(1 / (sum(ranks) / len(ranks)))


def test_what_a_caption_is_worth_alone_changes_nothing(scores_SS: np.ndarray, features_SV: np.ndarray) -> None:
    shifted = run(Table(scores_SS + np.linspace(-9, 9, 30)[:, None]), 30, features_SV)
    plain = run(Table(scores_SS), 30, features_SV)
    for name in ("r_at_1", "mrr", "hard_r_at_1", "image_specific_gain", "infonce", "emap_gain"):
        assert getattr(shifted, name).value == pytest.approx(getattr(plain, name).value, abs=1e-9), name


def test_hub_images_move_the_plain_gains_of_captions_and_not_the_emap_ones() -> None:
    rng = np.random.default_rng(5)
    scores, hubs = rng.normal(size=(8, 8)), 10 * rng.normal(size=(1, 8))
    assert emap_gains(scores + hubs) == pytest.approx(emap_gains(scores))
    assert emap_gains(hubs + rng.normal(size=(8, 1))) == pytest.approx(np.zeros(8), abs=1e-12)


def test_the_interval_of_the_gain_covers_hub_images_that_help_and_mislead() -> None:
    # S_ii = +v_i and S_ji = -v_i: each image counts twice, so the plain formula alone would be half of the truth.
    v_S = np.random.default_rng(2).normal(size=40)
    scores = np.repeat(-v_S[None], 40, axis=0)
    np.fill_diagonal(scores, v_S)
    got = run(Table(scores), 40, settings=AblationSettings(matching_k=40, batch_size=64))
    assert got.image_specific_gain.se == pytest.approx(2 * v_S.std(ddof=1) / math.sqrt(40), rel=0.1)


def test_infonce_terms_are_the_closed_form_and_never_above_ln_k() -> None:
    own_S, others_SK = np.array([2.0, 500.0]), np.zeros((2, 7))
    expected = math.log(8) + 2 - math.log(math.exp(2.0) + 7)
    assert infonce_terms(own_S, others_SK, 1.0) == pytest.approx([expected, math.log(8)])
    assert infonce_terms(own_S, others_SK, 2.0)[0] == pytest.approx(math.log(8) + 1 - math.log(math.e + 7))


def test_the_bound_stays_below_the_true_information_and_comes_near() -> None:
    # A caption tells exactly which of 4 classes the image has: ln 4 nats.
    rng = np.random.default_rng(0)
    own, others = rng.integers(0, 4, 4000), rng.integers(0, 4, (4000, 31))
    terms = infonce_terms(np.zeros(4000), np.where(others == own[:, None], 0.0, -50.0), 1.0)
    assert math.log(4) - 0.1 < terms.mean() < math.log(4) + 0.01


def test_the_temperature_is_the_best_of_a_grid() -> None:
    rng = np.random.default_rng(0)
    others_SK = 30 * rng.normal(size=(200, 9))
    own_S = 15 + 30 * rng.normal(size=200)
    grid = np.exp(np.linspace(math.log(0.1), math.log(100), 400))
    values = [infonce_terms(own_S, others_SK, temperature).mean() for temperature in grid]
    assert best_temperature(own_S, others_SK) == pytest.approx(grid[int(np.argmax(values))], rel=0.05)


def test_the_temperature_comes_from_other_captions_than_those_it_is_reported_on(scores_SS: np.ndarray) -> None:
    own_S, others_SK = np.diagonal(scores_SS), scores_SS[np.arange(30)[:, None], candidates().random_SK]
    best = infonce_terms(own_S, others_SK, best_temperature(own_S, others_SK)).mean()
    # Two temperatures, each the best for its own half, could only be better than the best common one.
    assert run(Table(scores_SS), 30).infonce.value < best - 1e-6


def test_the_bound_says_when_it_is_saturated() -> None:
    got = run(Table(1000 * np.eye(30)), 30)
    assert got.infonce.value == pytest.approx(math.log(6)) and got.infonce_saturated
    weak = run(Table(2.0 * np.eye(30) + np.random.default_rng(0).normal(size=(30, 30))), 30)
    assert not weak.infonce_saturated and 0 < weak.infonce.value < 0.9 * math.log(6)


def test_no_donor_has_the_same_image_or_the_same_caption() -> None:
    images, texts = np.array([0, 0, 1, 2, 3, 4]), np.array([0, 1, 1, 2, 3, 3])
    found = draw_candidates(images, texts, np.random.default_rng(0).normal(size=(6, 3)), 4, 32, seed=0)
    assert found.k == 4 and found.hard_SK is not None
    for donors_SK in (found.random_SK, found.hard_SK):
        for i, donors_K in enumerate(donors_SK):
            assert len(set(donors_K)) == 3
            assert all(images[j] != images[i] and texts[j] != texts[i] for j in donors_K)
    block = found.block_M
    assert len(set(images[block])) == len(set(texts[block])) == len(block) >= 3


def test_random_donors_are_drawn_evenly() -> None:
    each = np.arange(50)
    counts = sum(
        np.bincount(draw_candidates(each, each, None, 11, 0, seed).random_SK.ravel(), minlength=50)
        for seed in range(20)
    )
    assert np.abs(counts - 200).max() < 60  # 4.5 standard deviations of a binomial count


def test_too_few_donors_lower_k_for_all_and_it_is_said() -> None:
    samples = [make_sample(row, picture=row, image_hash="same" if row < 27 else None) for row in range(30)]
    got = match(Table(np.eye(30)), Captions(samples, numbered(30)), SETTINGS, seed=3)
    assert (got.k, got.wanted_k) == (4, 6)


@pytest.mark.parametrize("count", [0, 1])
def test_without_another_image_nothing_is_estimated_and_it_is_said(count: int) -> None:
    got = run(Table(np.eye(2)), count)
    assert got.r_at_1.value is None and got.captions == count
    assert got.problem == "no-two-samples-differ"


def test_two_samples_are_enough_for_figures() -> None:
    got = run(Table(5 * np.eye(2)), 2, np.eye(2))
    assert (got.k, got.r_at_1.value, got.image_specific_gain.value) == (2, 1.0, 5.0) and got.deciles == []


def test_a_loss_that_is_not_finite_gives_no_figure(scores_SS: np.ndarray) -> None:
    bad = scores_SS.copy()
    bad[4, 4] = np.nan
    got = run(Table(bad), 30)
    assert got.r_at_1.value is None and got.problem == "not-finite"


def test_without_features_hard_and_graded_donors_are_left_out_and_it_is_said(scores_SS: np.ndarray) -> None:
    got = run(Table(scores_SS), 30)
    assert got.hard_r_at_1.value is None and got.deciles == []
    assert "The similarity of images was not measured" in amounts(got)


def test_deciles_are_the_gaps_of_tenths_of_the_pairs_by_likeness(
    scores_SS: np.ndarray, features_SV: np.ndarray
) -> None:
    found, samples = candidates(features_SV), samples_of(30)
    got = run(Table(scores_SS), 30, features_SV).deciles
    units = features_SV / np.linalg.norm(features_SV, axis=1, keepdims=True)
    pairs = sorted((units[i] @ units[j], i, j) for i in range(30) for j in found.random_SK[i])
    assert len(got) == 10 and [decile.pairs for decile in got] == [15] * 10
    for place, decile in enumerate(got):
        tenth = pairs[15 * place : 15 * place + 15]
        differences = [scores_SS[i, i] - scores_SS[i, j] for _, i, j in tenth]
        tokens = [samples[i].label_tokens for _, i, _ in tenth]
        assert decile.gap.value == pytest.approx(sum(differences) / sum(tokens))
        assert decile.similarity == pytest.approx((tenth[0][0], tenth[-1][0]))


def test_use_of_the_kind_alone_shows_in_the_far_deciles_only() -> None:
    kinds = np.arange(40) % 2
    features = np.eye(2)[kinds] + 0.01 * np.random.default_rng(0).normal(size=(40, 2))
    noise = 1e-3 * np.random.default_rng(1).normal(size=(40, 40))
    scores = np.where(kinds[:, None] == kinds[None, :], 0.0, -5.0) + noise
    got = run(Table(scores), 40, features, AblationSettings(matching_k=20, batch_size=64))
    assert got.deciles[0].gap.value > 0.5 and abs(got.deciles[-1].gap.value) < 0.01
    assert got.deciles[0].gap.standing == "costs"
    assert "costs" not in (got.deciles[-1].gap.standing, got.hard_r_at_1.standing)


@pytest.mark.parametrize(("scorer", "seen"), [(Healthy(), True), (Constant(), False), (NotInjected(), False)])
def test_only_a_connector_that_carries_content_beats_chance(scorer: Healthy, seen: bool) -> None:
    samples = samples_of(40)
    visual = VisualTokens((torch.stack([scorer.code(s.row) for s in samples]),))
    got = match(scorer, Captions(samples, visual), SETTINGS, seed=3)
    assert (got.r_at_1.value > 0.9) == seen == (got.r_at_1.standing == "costs")
    if not seen:
        assert got.r_at_1.value == pytest.approx(1 / 6)


def test_pairs_rolled_by_one_are_at_chance() -> None:
    got = run(Table(np.roll(9.0 * np.eye(30), 1, axis=1) + np.random.default_rng(0).normal(size=(30, 30))), 30)
    assert got.r_at_1.value < 0.35 and got.r_at_1.standing != "costs"


def test_captions_that_prefer_other_images_are_no_better_than_guessing() -> None:
    got = run(Table(-9.0 * np.eye(60)), 60)
    assert got.r_at_1.value == 0 and got.r_at_1.standing == "ruled out"
    assert "nats lower with its own image than with another image" in amounts(got)


def test_a_share_is_above_chance_only_where_its_99_percent_bound_is() -> None:
    values = np.array([1.0] * 14 + [0.0] * 46)
    got = bootstrap_mean(values, np.arange(60), np.random.default_rng(0), margin=1 / 6)
    assert got.lower99 < got.ci95[0] < got.ci95[1] < got.upper99
    assert got.lower99 < 1 / 6 < got.upper99 and got.standing == "open"
    assert bootstrap_mean(values, np.arange(60), np.random.default_rng(0), margin=0.1).standing == "costs"
    assert bootstrap_mean(values, np.arange(60), np.random.default_rng(0), margin=0.4).standing == "ruled out"
    exact = bootstrap_mean(np.zeros(20), np.arange(20), np.random.default_rng(0), margin=0.2)
    assert exact.upper99 == pytest.approx(1 - 0.01 ** (1 / 20)) and exact.standing == "open"


def test_images_that_come_twice_are_one_cluster() -> None:
    values = np.random.default_rng(0).integers(0, 2, 60).astype(float)
    single = bootstrap_mean(values, np.arange(60), np.random.default_rng(0))
    double = bootstrap_mean(np.repeat(values, 2), np.repeat(np.arange(60), 2), np.random.default_rng(0))
    assert double.se == pytest.approx(single.se) and double.ci95 == pytest.approx(single.ci95)


def test_the_bootstrap_interval_of_a_share_is_near_the_binomial_one() -> None:
    values = np.array([1.0] * 120 + [0.0] * 80)
    got = bootstrap_mean(values, np.arange(200), np.random.default_rng(0))
    se = math.sqrt(0.6 * 0.4 / 200)
    assert got.se == pytest.approx(se, rel=0.1)
    assert got.ci95 == pytest.approx((0.6 - 1.96 * se, 0.6 + 1.96 * se), abs=0.015)


def test_hits_without_exception_are_no_certainty() -> None:
    got = bootstrap_mean(np.ones(20), np.arange(20), np.random.default_rng(0))
    assert got.ci95 == pytest.approx((0.025 ** (1 / 20), 1.0))


def test_batches_order_and_seeds_are_as_promised(scores_SS: np.ndarray, features_SV: np.ndarray) -> None:
    one = run(Table(scores_SS), 30, features_SV)
    assert one == run(Table(scores_SS), 30, features_SV, AblationSettings(matching_k=6, batch_size=7))
    other = match(Table(scores_SS), Captions(samples_of(30), numbered(30), features_SV), SETTINGS, seed=4)
    assert other.r_at_1 != one.r_at_1 or other.mrr != one.mrr


def test_captions_without_their_images_are_enough(scores_SS: np.ndarray) -> None:
    samples = samples_of(30)
    assert all(s.pixels_CHW is not None for s in samples) and (samples[0].labels_T != IGNORE_INDEX).any()
    match(Table(scores_SS), Captions(samples, numbered(30)), SETTINGS, seed=3)  # Table asserts that no pixels arrive


def test_graded_needs_ten_pairs() -> None:
    each = np.arange(3)
    donors = np.array([[1], [2], [0]])
    assert graded(np.zeros(3), np.zeros((3, 1)), each + 1, each, donors, np.eye(3)) == []
