from __future__ import annotations

import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyechart.scoring.batching import LazyBatches, batches_by_length, collate
from eyechart.seam import IGNORE_INDEX, CollateStats, Reject, Sample

PAD = EOS = 9
N = IGNORE_INDEX


def sample(row: int, ids: list[int], labels: list[int], block: tuple[int, int], cut: int = 0, value: int = 0) -> Sample:
    return Sample(
        row=row,
        id=str(row),
        image=f"{row}.png",
        caption="c",
        ids_T=np.array(ids),
        labels_T=np.array(labels),
        block=block,
        full_length=len(ids) + cut,
        pixels_CHW=torch.full((3, 2, 2), value, dtype=torch.uint8),
    )


LONG = sample(4, [5, 1, 2, 2, 3, 6, 7, EOS], [N, N, N, N, N, 6, 7, EOS], (1, 5), value=10)
SHORT = sample(2, [1, 2, 2, 3, EOS], [N, N, N, N, EOS], (0, 4), value=20)
CUT = sample(3, [1, 2, 2, 3], [N, N, N, N], (0, 4), cut=3, value=30)
MISSING = Reject(8, "image missing", "8.png")


def test_samples_are_padded_on_the_right_by_hand() -> None:
    batch = collate([LONG, SHORT], PAD)
    assert batch.ids_BT.tolist() == [[5, 1, 2, 2, 3, 6, 7, 9], [1, 2, 2, 3, 9, 9, 9, 9]]
    assert batch.labels_BT.tolist() == [[N, N, N, N, N, 6, 7, 9], [N, N, N, N, 9, N, N, N]]
    assert batch.block_BT.int().tolist() == [[0, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]
    assert batch.lengths_B.tolist() == [8, 5]
    assert batch.attention_BT.int().tolist() == [[1] * 8, [1] * 5 + [0] * 3]
    assert batch.pixels_BCHW is not None and batch.pixels_BCHW.dtype == torch.uint8
    assert batch.pixels_BCHW[:, 0, 0, 0].tolist() == [10, 20]
    assert batch.features_BPV is None
    assert (batch.ids_BT.dtype, batch.labels_BT.dtype) == (torch.long, torch.long)


def test_the_eos_label_survives_padding_with_the_same_id() -> None:
    batch = collate([LONG, SHORT], PAD)
    assert int((batch.labels_BT == EOS).sum()) == 2


def test_rejects_are_carried_along_and_replaced_by_nothing() -> None:
    batch = collate([LONG, MISSING, SHORT], PAD)
    assert [s.row for s in batch.samples] == [4, 2] and batch.rejects == (MISSING,)
    assert len(batch) == 2 and batch.ids_BT.shape == (2, 8) and batch.stats.samples == 2


def test_a_batch_of_nothing_but_rejects_has_size_zero() -> None:
    batch = collate([MISSING], PAD)
    assert len(batch) == 0 and batch.samples == ()
    assert batch.ids_BT.shape == batch.labels_BT.shape == batch.block_BT.shape == batch.attention_BT.shape == (0, 0)
    assert batch.lengths_B.shape == (0,) and batch.pixels_BCHW is None and batch.stats == CollateStats()


def test_a_last_batch_of_one_is_a_batch() -> None:
    assert collate([SHORT], PAD).ids_BT.tolist() == [[1, 2, 2, 3, 9]]


def test_check_2_is_counted_by_hand() -> None:
    stats = collate([LONG, SHORT, CUT], PAD).stats
    assert stats == CollateStats(
        samples=3, truncated=1, zero_label=1, label_tokens=4, lengths=Counter({8: 1, 5: 1, 7: 1})
    )
    assert stats.truncated_pct == pytest.approx(100 / 3) and stats.avg_label_tokens == pytest.approx(4 / 3)


def test_text_only_samples_make_a_batch_without_pixels() -> None:
    text = Sample(1, "1", "a.png", "c", SHORT.ids_T, SHORT.labels_T, SHORT.block, 5)
    batch = collate([text], PAD)
    assert batch.pixels_BCHW is None and batch.features_BPV is None


def test_cached_features_take_the_place_of_pixels() -> None:
    cached = Sample(1, "1", "a", "c", SHORT.ids_T, SHORT.labels_T, SHORT.block, 5, features_PV=torch.ones(4, 6))
    batch = collate([cached, cached], PAD)
    assert batch.features_BPV is not None and batch.features_BPV.shape == (2, 4, 6) and batch.pixels_BCHW is None


def test_a_cut_image_block_or_a_missing_picture_is_a_broken_invariant() -> None:
    broken = Sample(1, "1", "a.png", "c", np.array([1, 2, 2]), np.array([N, N, N]), (0, 4), 9)
    with pytest.raises(AssertionError, match="row 1: the image block is cut"):
        collate([broken], PAD)
    text = Sample(1, "1", "a.png", "c", SHORT.ids_T, SHORT.labels_T, SHORT.block, 5)
    with pytest.raises(AssertionError, match="lack their image"):
        collate([LONG, text], PAD)


@given(lengths=st.lists(st.integers(1, 20), max_size=40), size=st.integers(1, 7))
def test_batches_by_length_hold_every_index_once_longest_first(lengths: list[int], size: int) -> None:
    batches = batches_by_length(lengths, size)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [(-lengths[i], i) for i in order] == sorted((-lengths[i], i) for i in order)
    assert all(len(batch) == size for batch in batches[:-1]) and all(batches)


class Opened:
    """A data set that notes what was asked for."""

    def __init__(self) -> None:
        self.positions: list[int] = []

    def __getitem__(self, position: int) -> Sample | Reject:
        self.positions.append(position)
        return (LONG, SHORT, MISSING, CUT)[position]


def test_lazy_batches_read_when_asked_every_time_and_keep_nothing() -> None:
    items = Opened()
    batches = LazyBatches(items, [[1, 2], [0], [3]], PAD)
    assert len(batches) == 3 and len(batches[1:]) == 2 and items.positions == []
    first = batches[0]
    assert [s.row for s in first.samples] == [2] and first.rejects == (MISSING,) and items.positions == [1, 2]
    assert batches[0].samples[0] is SHORT and items.positions == [1, 2, 1, 2]
    gone = weakref.ref(batches[1])
    assert gone() is None


def test_lazy_batches_are_those_of_their_groups_also_behind_a_slice() -> None:
    batches = LazyBatches(Opened(), [[1, 2], [0], [3]], PAD)
    assert [[s.row for s in batch.samples] for batch in batches] == [[2], [4], [3]]
    assert [[s.row for s in batch.samples] for batch in batches[1:]] == [[4], [3]]
    assert batches[1].ids_BT.tolist() == collate([LONG], PAD).ids_BT.tolist()
    with pytest.raises(IndexError):
        batches[3]
