"""The shift between logits and labels of a model's own loss is found also where the losses of two shifts are close."""

from __future__ import annotations

from eyechart.faults.own_loss import distance_of


def test_the_closest_shift_is_the_models_own_even_if_another_one_is_within_a_percent() -> None:
    assert distance_of(6.000, {1: 6.030, 0: 6.000, 2: 5.950}) == 0


def test_labels_that_are_shifted_once_are_found_beside_other_losses() -> None:
    assert distance_of(6.030, {1: 6.030, 0: 6.000, 2: 5.950}) == 1


def test_a_loss_that_is_none_of_them_has_no_shift() -> None:
    assert distance_of(3.0, {1: 6.030, 0: 6.000, 2: float("inf")}) is None
