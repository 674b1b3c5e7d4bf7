"""Information, shock and misdirection: against brute force, and none for an under-trained prompt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eyechart.reporting.readings import decomposition
from eyechart.results import Decomposition, Estimated
from eyechart.scoring.decomposition import Blind, decompose
from eyechart.scoring.donors import draw_donors
from standings import checked, codes_of, estimated

N, ROUNDS = 40, 3


def world(seed=0, **levels):
    """Sums [S,R] per condition with the given nats per token above `correct`, tokens, images (some twice), donors."""
    generator = np.random.default_rng(seed)
    images = np.arange(N) * 3 // 4
    tokens = generator.integers(4, 15, size=N)
    donors = draw_donors([str(i) for i in images], [str(i) for i in range(N)], ROUNDS, 0).table_SR
    base = generator.gamma(3, size=(N, 1)) * tokens[:, None]
    sums = {"correct": base}
    for name, level in levels.items():
        rounds = ROUNDS if name == "shuffled" else 1
        sums[name.replace("_", "-")] = base + (level + generator.normal(0, 0.3, size=(N, rounds))) * tokens[:, None]
    return sums, tokens, images, donors


def trained(still_falling=False):
    return Blind(torch.zeros(2, 3), 4096, 0.05, still_falling)


LEVELS = {"shuffled": 2.0, "zero": 0.9, "no_image": 0.8, "blind": 0.6}


def test_the_parts_are_paired_differences_and_add_up_to_the_gaps():
    sums, tokens, images, donors = world(**LEVELS)
    got = decompose(sums, tokens, images, donors, trained())
    total = tokens.sum()
    information = (sums["blind"] - sums["correct"]).sum() / total
    assert got.information.value == pytest.approx(information)
    assert got.shock.value == pytest.approx((sums["zero"] - sums["blind"]).sum() / total)
    gap = {name: (sums[name].mean(1) - sums["correct"][:, 0]).sum() / total for name in ("zero", "shuffled")}
    assert got.information.value + got.shock.value == pytest.approx(gap["zero"])
    assert got.information.value + got.misdirection.value == pytest.approx(gap["shuffled"])
    assert not got.blind_under_trained


def test_their_standard_errors_are_clustered_by_image_and_for_misdirection_dyadic():
    sums, tokens, images, donors = world(**LEVELS)
    got = decompose(sums, tokens, images, donors, trained())
    count = images.max() + 1
    excess = (sums["zero"] - sums["blind"])[:, 0] - tokens * got.shock.value
    by_image = sum(excess[images == image].sum() ** 2 for image in range(count))
    assert got.shock.se == pytest.approx(math.sqrt(count / (count - 1) * by_image) / tokens.sum())
    excess = sums["shuffled"] - sums["blind"] - tokens[:, None] * got.misdirection.value
    plain = sum((excess.mean(1)[images == image]).sum() ** 2 for image in range(count))
    dyadic = 0.0
    pairs = [(int(images[i]), int(images[donors[i, r]]), excess[i, r]) for i in range(N) for r in range(ROUNDS)]
    for own, donor, e in pairs:
        for own2, donor2, e2 in pairs:
            shared = (own == own2) + (own == donor2) + (donor == own2) + (donor == donor2)
            dyadic += e * e2 * (shared - (own == own2 and donor == donor2))
    variance = count / (count - 1) * max(plain, dyadic / ROUNDS**2) / tokens.sum() ** 2
    assert got.misdirection.se == pytest.approx(math.sqrt(variance))
    for part in (got.information, got.shock, got.misdirection):
        assert part.ci95[0] < part.value < part.ci95[1]


def test_the_parts_of_a_gap_add_up_to_it_in_the_sentence_too():
    gaps = {"shuffled": (2.24, 0.02), "zero": (0.66, 0.02), "noise": (1.0, 0.02), "blind": (0.63, 0.01)}
    split = Decomposition(
        information=estimated(0.63, 0.01), shock=estimated(0.03, 0.01), misdirection=estimated(1.61, 0.02)
    )
    assert decomposition(split, checked(gaps)) == (
        "In nats per token, gap(zero) +0.66 = information +0.63 + shock +0.030 (95% interval +0.010 to +0.050); "
        "gap(shuffled) +2.24 = information +0.63 + misdirection +1.61 (95% interval +1.57 to +1.65)."
    )
    alone = split.model_copy(update={"shock": Estimated(value=None), "misdirection": Estimated(value=None)})
    assert decomposition(alone, checked(gaps)) == "", "no part, no sentence"


@pytest.mark.parametrize(
    ("blind", "code"),
    [((0.6, 0.01), "information-shown"), ((0.001, 0.1), "information-open"), ((-0.4, 0.1), "information-ruled-out")],
)
def test_information_is_where_the_blind_condition_stands(blind, code):
    gaps = {"shuffled": (2.0, 0.1), "zero": (0.9, 0.1), "noise": (0.9, 0.1), "blind": blind}
    none = Estimated(value=None)
    split = Decomposition(information=estimated(*blind), shock=none, misdirection=none)
    assert codes_of(checked(gaps, decomposition=split))["information"] == code


@pytest.mark.parametrize("rival", ["zero", "no_image", "mean_token"])
def test_a_blind_prompt_worse_than_what_it_could_imitate_gives_no_split(rival):
    levels = {"shuffled": 2.0, "zero": 1.0, "no_image": 1.0, "mean_token": 1.0, "blind": 0.9} | {rival: 0.5}
    got = decompose(*world(**levels), trained())
    assert got.blind_under_trained
    assert got.information.value is got.shock.value is got.misdirection.value is None
    assert (got.blind_rival, got.blind_deficit.standing) == (rival.replace("_", "-"), "costs")
    assert got.blind_captions == 4096 and got.blind_learning_rate == 0.05


def test_a_blind_prompt_that_is_worse_by_no_more_than_chance_is_split():
    sums, tokens, images, donors = world(**(LEVELS | {"no_image": 0.6, "blind": 0.601}))
    assert not decompose(sums, tokens, images, donors, trained()).blind_under_trained


def test_noise_and_changed_pictures_do_not_judge_the_blind_prompt():
    sums, tokens, images, donors = world(**(LEVELS | {"noise": 0.1, "grey": 0.1, "tiles_4": 0.1}))
    assert not decompose(sums, tokens, images, donors, trained()).blind_under_trained


def test_a_loss_that_was_still_falling_is_recorded():
    assert decompose(*world(**LEVELS), trained(still_falling=True)).blind_still_falling
    assert not decompose(*world(**LEVELS), trained()).blind_still_falling


def test_what_was_not_scored_has_no_part():
    sums, tokens, images, donors = world(blind=0.6, zero=0.9)
    got = decompose(sums, tokens, images, donors, trained())
    assert got.misdirection.value is None and got.shock.value is not None
    assert decompose({"correct": sums["correct"]}, tokens, images, donors, trained()) is None
    assert decompose({"blind": sums["blind"]}, tokens, images, donors, trained()) is None


def test_one_image_has_parts_without_intervals():
    sums, tokens, _, donors = world(blind=0.6, zero=0.9)
    got = decompose(sums, tokens, np.zeros(N, dtype=int), donors, trained())
    assert got.information.se is got.information.ci95 is None and got.information.value > 0
