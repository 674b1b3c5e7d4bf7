"""Stores the visual tokens, token ids and per-token losses of all scored samples in memory-mapped files, for check 1.

Memory use therefore grows by only a few hundred bytes per sample, for names and captions. Positions of samples are
*canonical* (by row), regardless of the order in which the samples were stored.

Dimension suffixes: S samples, B samples of a batch, Q visual tokens per image, T label tokens of one sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eyechart.scoring.spool import Spool
from eyechart.seam import Batch, CollateStats, Reject, Sample, VisualTokens
from eyechart.verdict.statistics import FloatArray


@dataclass(frozen=True)
class VisualSet:
    """The visual tokens of all scored images, which are accessed by the canonical position (by row) of the sample."""

    stored: VisualTokens
    order_S: Tensor
    """int64: the index in `stored` of each sample's visual tokens."""

    def __len__(self) -> int:
        """Return S, the number of samples."""
        return len(self.order_S)

    @property
    def slots(self) -> int:
        """Q, the number of visual tokens per image."""
        return int(self.stored.layers[0].shape[1])

    def images(self, layer: int) -> Iterator[Tensor]:
        """Yield one layer [Q,E] of every image, one image at a time in canonical order, without padding."""
        counts = self.stored.counts()
        return (self.stored.layers[layer][place, : counts[place]] for place in self.order_S.tolist())

    @property
    def equal_counts(self) -> bool:
        """Whether all images have the same number of visual tokens."""
        return self.stored.counts_B is None

    def rows(self, positions: Tensor | Sequence[int]) -> VisualTokens:
        """Return the visual tokens of the samples at these positions, read into memory."""
        return self.stored.rows(self.order_S[torch.as_tensor(positions, dtype=torch.long)])

    def mixed(self, positions_BQ: Tensor) -> VisualTokens:
        """Return visual tokens [B,Q,E] in which token q of image b is token q of sample positions_BQ[b, q]."""
        index_BQ = self.order_S[positions_BQ]
        slots_Q = torch.arange(positions_BQ.shape[1])
        return self.stored.map(lambda layer: layer[index_BQ, slots_Q])


class VisualFile:
    """Collects visual tokens batch by batch in one memory-mapped file per layer."""

    def __init__(self, folder: Path | None) -> None:
        """Set the folder for the files; if None, the system's folder for temporary files is used."""
        self._folder = folder
        self._spools: list[Spool] = []
        self._like: VisualTokens | None = None
        self._counts: list[int] = []

    def append(self, visual: VisualTokens) -> None:
        """Append the visual tokens of one batch, whose numbers per image may differ from those of other batches.

        Raises:
            ValueError: the disk is full.
        """
        if self._like is None:
            self._like = visual.rows([0])
            self._spools = [Spool(self._folder, "visual tokens") for _ in visual.layers]
        forms = [(layer.shape[2:], layer.dtype) for layer in visual.layers]
        assert forms == [(layer.shape[2:], layer.dtype) for layer in self._like.layers], "encoders keep their widths"
        counts = visual.counts()
        for spool, layer in zip(self._spools, visual.layers, strict=True):
            if visual.counts_B is None:
                spool.append(layer)
            else:
                spool.append(torch.cat([image_QE[:count] for image_QE, count in zip(layer, counts, strict=True)]))
        self._counts += counts

    def read(self, order: Sequence[int]) -> VisualSet:
        """Return the visual tokens of all images; `order` maps each canonical position to its index in writing order.

        Raises:
            ValueError: the disk is full.
        """
        assert self._like is not None and sorted(order) == list(range(len(self._counts)))
        order_S = torch.as_tensor(order, dtype=torch.long)
        if len(set(self._counts)) > 1:
            layers = tuple(map(self._padded, self._spools, self._like.layers))
            return VisualSet(VisualTokens(layers, torch.tensor(self._counts)), order_S)
        layers = tuple(
            spool.tensor(layer.dtype, len(self._counts), *layer.shape[1:])
            for spool, layer in zip(self._spools, self._like.layers, strict=True)
        )
        return VisualSet(VisualTokens(layers), order_S)

    def _padded(self, spool: Spool, like: Tensor) -> Tensor:
        """Copy one layer to a file in which every image is padded to the largest number of visual tokens."""
        most, padded = max(self._counts), Spool(self._folder, "visual tokens")
        for image_QE in torch.split(spool.tensor(like.dtype, sum(self._counts), like.shape[2]), self._counts):
            padded.append(F.pad(image_QE, (0, 0, 0, most - len(image_QE))))
        return padded.tensor(like.dtype, len(self._counts), most, like.shape[2])


@dataclass(frozen=True)
class StoredBatch:
    """A batch without images, whose ids, labels, image block and lengths are in a memory-mapped file."""

    places: tuple[int, ...]
    """The canonical positions of its samples."""
    rejects: tuple[Reject, ...]
    """The rows of the batch that could not be read."""
    width: int
    """T, the number of positions of a sequence."""
    start: int

    def load(self, numbers: Tensor, samples: Sequence[Sample]) -> Batch:
        """Return the batch, read into memory; `samples` contains all samples in canonical order."""
        own = tuple(samples[place] for place in self.places)
        text_3BT, lengths_B = (part.clone() for part in self._parts(numbers))
        return Batch(
            samples=own,
            ids_BT=text_3BT[0],
            labels_BT=text_3BT[1],
            lengths_B=lengths_B,
            block_BT=text_3BT[2].bool(),
            pixels_BCHW=None,
            features_BPV=None,
            stats=CollateStats.of(own),
            rejects=self.rejects,
        )

    def with_text(self, numbers: Tensor, samples: Sequence[Sample]) -> list[Sample]:
        """Return the batch's samples with their ids and labels added, as views into the memory-mapped file."""
        text_3BT, lengths_B = self._parts(numbers)
        ids_BT, labels_BT, _ = text_3BT.numpy()
        return [
            replace(sample, ids_T=ids_BT[b, :length], labels_T=labels_BT[b, :length])
            for b, (sample, length) in enumerate(zip(samples, lengths_B.tolist(), strict=True))
        ]

    def _parts(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        rows = len(self.places)
        border = self.start + 3 * rows * self.width
        return numbers[self.start : border].view(3, rows, self.width), numbers[border : border + rows]


class BatchFile:
    """Collects batches without their images, and otherwise exactly as the collator made them.

    Only two numbers and the row indices of each batch stay in memory. Small tensors in memory between large ones would
    prevent the allocator from releasing the memory of the large ones.
    """

    def __init__(self, folder: Path | None) -> None:
        """Open the file in `folder`, which has the same meaning as in `VisualFile`."""
        self._spool = Spool(folder, "token ids")
        self._batches: list[tuple[tuple[int, ...], tuple[Reject, ...], int, int]] = []
        self._numbers = 0

    def append(self, batch: Batch) -> None:
        """Append a batch. Its samples are then identified by their row indices.

        Raises:
            ValueError: the disk is full.
        """
        text_3BT = torch.stack([batch.ids_BT, batch.labels_BT, batch.block_BT.long()])
        self._spool.append(text_3BT)
        self._spool.append(batch.lengths_B.long())
        rows = tuple(sample.row for sample in batch.samples)
        self._batches.append((rows, batch.rejects, int(text_3BT.shape[2]), self._numbers))
        self._numbers += text_3BT.numel() + len(rows)

    def read(self, position: Mapping[int, int]) -> tuple[Tensor, list[StoredBatch]]:
        """Return the content of the file and the batches in it; `position` maps each row to its canonical position."""
        found = [
            StoredBatch(tuple(position[row] for row in rows), rejects, width, start)
            for rows, rejects, width, start in self._batches
        ]
        return self._spool.tensor(torch.int64, self._numbers), found


class LossFile:
    """Collects per-token losses by condition, then by round (derangement), then by batch in a fixed order."""

    def __init__(self, folder: Path | None, places: Sequence[int], tokens: Sequence[int]) -> None:
        """Prepare the file for losses of samples that will be appended in the order `places`.

        Args:
            folder: the folder for the file, as in `VisualFile`.
            places: the canonical position of each sample, in the order in which the samples are scored.
            tokens: the number of label tokens T of each sample, by canonical position.
        """
        self._spool = Spool(folder, "losses")
        self._start = np.empty(len(tokens), dtype=np.int64)
        lengths = [tokens[place] for place in places]
        self._start[list(places)] = np.cumsum([0, *lengths])[:-1]
        self._tokens, self._total = list(tokens), sum(lengths)

    def append(self, nll_N: Tensor) -> None:
        """Append the losses of the next samples, converted to float64.

        Raises:
            ValueError: the disk is full.
        """
        self._spool.append(nll_N.double())

    def read(self, rounds: dict[str, int]) -> LossTable:
        """Return all losses; `rounds` contains the number of rounds of each condition, in the order of scoring."""
        columns = sum(rounds.values())
        return LossTable(
            self._spool.tensor(torch.float64, columns, self._total).numpy(), rounds, self._start, self._tokens
        )


@dataclass(frozen=True)
class LossTable:
    """The loss of every label token under every condition, in a memory-mapped file."""

    columns: FloatArray
    """One row per condition and round, which contains the losses of the label tokens of all samples, concatenated."""
    rounds: dict[str, int]
    start: np.ndarray[tuple[int], np.dtype[np.int64]]
    tokens: list[int]

    def of(self, position: int) -> dict[str, list[FloatArray]]:
        """Return the losses [T] of one sample for each condition and round, as views into the file."""
        begin = int(self.start[position])
        part = self.columns[:, begin : begin + self.tokens[position]]
        found: dict[str, list[FloatArray]] = {}
        column = 0
        for name, rounds in self.rounds.items():
            if rounds:
                found[name] = list(part[column : column + rounds])
            column += rounds
        return found
