"""Information, shock and misdirection: against brute force, in words, and none behind an under-trained prompt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eyechart.scoring.decomposition import Blind, decompose
from eyechart.scoring.donors import draw_donors

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


def test_the_split_is_told_in_words_that_add_up():
    tokens, images = np.full(4, 100), np.arange(4)
    donors = draw_donors(list("abcd"), list("abcd"), 1, 0).table_SR
    wobble = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    base = np.zeros((4, 1))
    sums = {"correct": base, "blind": base + 63 + wobble, "zero": base + 66, "shuffled": base + 224}
    got = decompose(sums, tokens, images, donors, None)
    assert got.sentences == [
        "of the 0.66 nats/token by which zero is worse, 0.63 (+0.61 to +0.65) is information and 0.03 (+0.01 to +0.05) "
        "shock",
        "of the 2.24 nats/token by which a wrong picture is worse, 0.63 (+0.61 to +0.65) is information and 1.61 "
        "(+1.59 to +1.63) misdirection",
    ]
    assert got.blind_captions is got.blind_still_falling is None


def test_a_rounded_part_never_makes_another_gap_than_the_table_has():
    tokens, images, donors = np.full(4, 100), np.arange(4), draw_donors(list("abcd"), list("abcd"), 1, 0).table_SR
    wobble = np.array([[0.1], [-0.1], [0.1], [-0.1]])
    sums = {"correct": np.zeros((4, 1)), "blind": np.full((4, 1), 88.6) + wobble, "zero": np.full((4, 1), 180.2)}
    (sentence,) = decompose(sums, tokens, images, donors, None).sentences
    assert sentence.startswith("of the 1.80 nats/token") and "0.89 (" in sentence and "0.91 (" in sentence


def test_without_information_nothing_is_called_information():
    tokens, images, donors = np.full(4, 100), np.arange(4), draw_donors(list("abcd"), list("abcd"), 1, 0).table_SR
    wobble = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    base = np.zeros((4, 1))
    sums = {"correct": base, "blind": base - 0.6 + wobble, "zero": base + 34, "shuffled": base + 0.17}
    told = decompose(sums, tokens, images, donors, None).sentences
    assert told[0].startswith("no information is shown: the pictures tell -0.006 (")
    assert told[1:] == [
        "the 0.34 nats/token by which zero is worse are shock as far as is shown",
        "the 0.0017 nats/token by which a wrong picture is worse are misdirection as far as is shown",
    ]


def test_information_alone_is_told_where_neither_zero_nor_shuffled_was_scored():
    sums, tokens, images, donors = world(**LEVELS)
    got = decompose({name: sums[name] for name in ("correct", "blind")}, tokens, images, donors, None)
    (sentence,) = got.sentences
    assert "nats/token beyond the best constant prompt" in sentence


@pytest.mark.parametrize("rival", ["zero", "no_image", "mean_token"])
def test_a_blind_prompt_worse_than_what_it_could_imitate_gives_no_split(rival):
    levels = {"shuffled": 2.0, "zero": 1.0, "no_image": 1.0, "mean_token": 1.0, "blind": 0.9} | {rival: 0.5}
    got = decompose(*world(**levels), trained())
    assert got.blind_under_trained
    assert got.information.value is got.shock.value is got.misdirection.value is None
    (sentence,) = got.sentences
    assert "no split: the blind prompt is under-trained" in sentence and rival.replace("_", "-") in sentence
    assert got.blind_captions == 4096 and got.blind_learning_rate == 0.05


def test_a_blind_prompt_that_is_worse_by_no_more_than_chance_is_split():
    sums, tokens, images, donors = world(**(LEVELS | {"no_image": 0.6, "blind": 0.601}))
    assert not decompose(sums, tokens, images, donors, trained()).blind_under_trained


def test_noise_and_changed_pictures_do_not_judge_the_blind_prompt():
    sums, tokens, images, donors = world(**(LEVELS | {"noise": 0.1, "grey": 0.1, "tiles_4": 0.1}))
    assert not decompose(sums, tokens, images, donors, trained()).blind_under_trained


def test_no_information_is_said():
    got = decompose(*world(**(LEVELS | {"blind": 0.0, "no_image": 0.3})), trained())
    assert got.sentences[0].startswith("no information is shown: the pictures tell ")
    assert not any("no information" in s for s in decompose(*world(**LEVELS), trained()).sentences)


def test_a_loss_that_was_still_falling_is_said_and_recorded():
    got = decompose(*world(**LEVELS), trained(still_falling=True))
    assert got.blind_still_falling
    assert "still falling when its budget of 4,096 captions ended" in got.sentences[-1]
    assert not any("falling" in s for s in decompose(*world(**LEVELS), trained()).sentences)


def test_what_was_not_scored_has_no_part():
    sums, tokens, images, donors = world(blind=0.6, zero=0.9)
    got = decompose(sums, tokens, images, donors, trained())
    assert got.misdirection.value is None and got.shock.value is not None and len(got.sentences) == 1
    assert decompose({"correct": sums["correct"]}, tokens, images, donors, trained()) is None
    assert decompose({"blind": sums["blind"]}, tokens, images, donors, trained()) is None


def test_one_image_has_parts_without_intervals():
    sums, tokens, _, donors = world(blind=0.6, zero=0.9)
    got = decompose(sums, tokens, np.zeros(N, dtype=int), donors, trained())
    assert got.information.se is got.information.ci95 is None and got.information.value > 0
