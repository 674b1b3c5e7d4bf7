"""A model's loss is recognised as the cross-entropy of its logits at one distance, or as another number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from eyechart.faults.label_text import label_places
from eyechart.faults.own_loss import cross_entropies, distance_of, own_losses
from eyechart.seam import IGNORE_INDEX, Batch
from fake_scorers import make_batches, make_sample

VOCABULARY = 80


def batch_and_logits() -> tuple[Batch, Tensor]:
    (batch,) = make_batches([make_sample(row, words=6 + row) for row in range(3)], 3)
    logits_BTK = 3 * torch.randn(*batch.ids_BT.shape, VOCABULARY, generator=torch.Generator().manual_seed(0))
    return batch, logits_BTK


def losses_of(batch: Batch, logits_BTK: Tensor, distance: int) -> list[Tensor]:
    """The loss of a model whose code reads the logits at this distance before each label."""
    rows = zip(logits_BTK, batch.labels_BT, strict=True)
    found = [cross_entropies(at_TK, own_T, label_places(own_T), distance) for at_TK, own_T in rows]
    return [losses_N[~losses_N.isnan()] for losses_N in found]


@pytest.mark.parametrize("distance", [1, 0, 2, -1, 3])
def test_the_distance_of_a_loss_is_the_one_at_which_it_agrees(distance: int) -> None:
    batch, logits_BTK = batch_and_logits()
    found = own_losses(losses_of(batch, logits_BTK, distance), logits_BTK, batch)
    assert found.agreement[distance] > 0.9
    assert all(share < 0.2 for other, share in found.agreement.items() if other != distance)


def test_labels_that_are_moved_in_the_data_change_the_distance_of_the_tokens() -> None:
    batch, logits_BTK = batch_and_logits()
    moved_BT = batch.labels_BT.roll(1, dims=1)  # each label is the token before its position
    moved_BT[~batch.attention_BT] = IGNORE_INDEX
    moved = replace(batch, labels_BT=moved_BT)
    found = own_losses(losses_of(moved, logits_BTK, 1), logits_BTK, moved)
    assert found.agreement[0] == 1 and found.agreement[1] < 0.2


@pytest.mark.parametrize(
    ("change", "alike"),
    [(lambda nll_N: 0.8 * nll_N + 1, True), (lambda nll_N: nll_N.flip(0), False)],
    ids=["another number", "unrelated"],
)
def test_a_loss_of_another_kind_agrees_nowhere_and_is_alike_only_if_it_rises_with_the_right_one(
    change: Callable[[Tensor], Tensor], alike: bool
) -> None:
    batch, logits_BTK = batch_and_logits()
    losses = [change(nll_N) for nll_N in losses_of(batch, logits_BTK, 1)]
    found = own_losses(losses, logits_BTK, batch)
    assert max(found.agreement.values()) < 0.3 and (found.likeness > 0.99) == alike


def test_labels_in_the_padding_are_left_out() -> None:
    batch, logits_BTK = batch_and_logits()
    padded = replace(batch, labels_BT=torch.where(batch.attention_BT, batch.labels_BT, batch.ids_BT))
    assert not bool(batch.attention_BT.all())
    assert own_losses(losses_of(padded, logits_BTK, 1), logits_BTK, padded).agreement[1] == 1


def test_without_labels_nothing_agrees_and_nothing_is_alike() -> None:
    batch, logits_BTK = batch_and_logits()
    found = own_losses([torch.empty(0)] * 3, logits_BTK, batch)
    assert (set(found.agreement.values()), found.likeness) == ({0.0}, 0.0)


def test_a_token_outside_the_text_or_the_logits_has_no_cross_entropy() -> None:
    logits_TK, ids_T = torch.zeros(3, 5), torch.tensor([1, 2, 3, 4])
    known = ~cross_entropies(logits_TK, ids_T, [-1, 0, 1, 3, 4], 1).isnan()
    assert known.tolist() == [False, False, True, True, False]


def test_the_closest_distance_is_the_models_own_even_if_another_one_is_within_a_percent() -> None:
    assert distance_of(6.000, {1: 6.030, 0: 6.000, 2: 5.950}) == 0


def test_labels_that_are_shifted_once_are_found_beside_other_losses() -> None:
    assert distance_of(6.030, {1: 6.030, 0: 6.000, 2: 5.950}) == 1


def test_a_loss_that_is_none_of_them_has_no_distance() -> None:
    assert distance_of(3.0, {1: 6.030, 0: 6.000, 2: float("inf")}) is None
