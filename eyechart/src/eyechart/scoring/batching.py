"""Combines samples into a `Batch`, and counts truncated samples, samples without labels, and label tokens (check 2).

The padding side is right, so that a sample has the same ids and positions in every batch. Padding is recognised only by
`lengths_B` and never by the pad id, which may be the EOS id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from eyechart.seam import IGNORE_INDEX, Batch, CollateStats, Reject, Sample


def collate(items: Sequence[Sample | Reject], pad_id: int = 0) -> Batch:
    """Combine samples into a batch, in the given order.

    Args:
        items: the samples and rejects that the data set returned for the batch's rows. In a batch with pixels, samples
            without image positions get zeros as pixels, which are not read.
        pad_id: the token id at padding positions; its value has no effect.

    Returns:
        The batch. Rejects are kept in `Batch.rejects` and are not replaced by other rows, so a batch of only rejects
        has tensors of size zero.
    """
    samples = tuple(item for item in items if isinstance(item, Sample))
    rejects = tuple(item for item in items if isinstance(item, Reject))
    batch, width = len(samples), max((len(sample.ids_T) for sample in samples), default=0)
    ids_BT = torch.full((batch, width), pad_id, dtype=torch.long)
    labels_BT = torch.full((batch, width), IGNORE_INDEX, dtype=torch.long)
    block_BT = torch.zeros((batch, width), dtype=torch.bool)
    for b, sample in enumerate(samples):
        start, end = sample.block
        length = len(sample.ids_T)
        assert end <= length == len(sample.labels_T), (
            f"row {sample.row}: the image block is cut, or ids and labels differ in length"
        )
        ids_BT[b, :length] = torch.from_numpy(sample.ids_T)
        labels_BT[b, :length] = torch.from_numpy(sample.labels_T)
        block_BT[b, start:end] = True
    pixels = [sample.pixels_CHW for sample in samples if sample.pixels_CHW is not None]
    if 0 < len(pixels) < batch:
        blank_CHW = torch.zeros_like(pixels[0])
        given = [blank_CHW if s.pixels_CHW is None and not s.has_image else s.pixels_CHW for s in samples]
        pixels = [pixels_CHW for pixels_CHW in given if pixels_CHW is not None]
    features = [sample.features_PV for sample in samples if sample.features_PV is not None]
    assert len(pixels) in (0, batch) and len(features) in (0, batch), "some samples of a batch lack their image"
    return Batch(
        samples=samples,
        ids_BT=ids_BT,
        labels_BT=labels_BT,
        lengths_B=torch.tensor([len(sample.ids_T) for sample in samples], dtype=torch.long),
        block_BT=block_BT,
        pixels_BCHW=torch.stack(pixels) if pixels else None,
        features_BPV=torch.stack(features) if features else None,
        stats=CollateStats.of(samples),
        rejects=rejects,
    )


def without_block(batch: Batch, begin_id: int | None) -> Batch:
    """Return the batch without the image block (the image positions of the prompt), so that only text is left.

    Args:
        batch: the batch; its image blocks may have different lengths.
        begin_id: the token that is put before the first label if the prompt consisted only of the image block; None if
            the model has no such token.
    """
    parts: list[tuple[list[Tensor], int]] = []
    for b, length in enumerate(batch.lengths_B.tolist()):
        keep_T = ~batch.block_BT[b]
        ids_T, labels_T = batch.ids_BT[b][keep_T], batch.labels_BT[b][keep_T]
        length -= int((~keep_T).sum())
        if length and labels_T[0] != IGNORE_INDEX:
            assert begin_id is not None, "the caller leaves no-image out if no token can precede the caption"
            ids_T, labels_T = F.pad(ids_T, (1, 0), value=begin_id), F.pad(labels_T, (1, 0), value=IGNORE_INDEX)
            length += 1
        parts.append(([ids_T, labels_T], length))
    width = max((len(ids_T) for (ids_T, _), _ in parts), default=0)
    # Shorter samples are padded with their own last token, which is never an image position.
    ids = [torch.cat([i_T, i_T[-1:].expand(width - len(i_T))]) for (i_T, _), _ in parts]
    labels = [F.pad(l_T, (0, width - len(l_T)), value=IGNORE_INDEX) for (_, l_T), _ in parts]
    samples = tuple(
        replace(sample, ids_T=i_T[:length].cpu().numpy(), labels_T=l_T[:length].cpu().numpy(), block=(0, 0))
        for sample, i_T, l_T, (_, length) in zip(batch.samples, ids, labels, parts, strict=True)
    )
    ids_BT = torch.stack(ids)
    lengths_B = torch.tensor([length for _, length in parts])
    return replace(
        batch,
        samples=samples,
        ids_BT=ids_BT,
        labels_BT=torch.stack(labels),
        lengths_B=lengths_B,
        block_BT=torch.zeros_like(ids_BT, dtype=torch.bool),
    )


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Group indices into batches of similar length, longest first, so that an out-of-memory error occurs early.

    Indices of samples with equal lengths keep their order.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


class Items(Protocol):
    """A map-style data set."""

    def __getitem__(self, position: int) -> Sample | Reject:
        """Return the sample at this position, or a `Reject` with the reason why it cannot be used."""
        ...


class LazyBatches(Sequence[Batch]):
    """A sequence of batches whose images are read each time a batch is requested, and are not kept in memory."""

    def __init__(self, items: Items, groups: Sequence[Sequence[int]], pad_id: int) -> None:
        """Store the data set; batch number i consists of the samples at the positions `groups[i]` of `items`."""
        self._items, self._groups, self._pad_id = items, groups, pad_id

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._groups)

    @overload
    def __getitem__(self, number: int) -> Batch: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Batch]: ...

    def __getitem__(self, number: int | slice) -> Batch | Sequence[Batch]:
        """Read and return one batch; a slice returns another `LazyBatches` and reads nothing yet."""
        if isinstance(number, slice):
            return LazyBatches(self._items, self._groups[number], self._pad_id)
        return collate([self._items[position] for position in self._groups[number]], self._pad_id)
