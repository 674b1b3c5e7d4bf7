"""What check 1 keeps of every scored sample, in mapped files: visual tokens, and losses per label token.

Memory in use then does not grow with the number of samples, apart from their text.

Dimension suffixes: S samples, B samples of a batch, Q visual tokens per image, T label tokens of one sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qwen3_vlm.batch import VisualTokens
from qwen3_vlm.checks.statistics import FloatArray
from qwen3_vlm.spool import Spool


@dataclass(frozen=True)
class VisualSet:
    """The visual tokens of all scored images; positions are canonical (by row), wherever the tokens are stored."""

    stored: VisualTokens
    order_S: Tensor
    """int64: where in `stored` the tokens of each sample stand."""

    def __len__(self) -> int:
        """S, the number of samples."""
        return len(self.order_S)

    @property
    def slots(self) -> int:
        """Q, visual tokens per image."""
        return int(self.stored.layers[0].shape[1])

    def images(self, layer: int) -> Iterator[Tensor]:
        """One layer [Q,E] of every image, in canonical order, one at a time."""
        return (self.stored.layers[layer][place] for place in self.order_S.tolist())

    def rows(self, positions: Tensor | Sequence[int]) -> VisualTokens:
        """The visual tokens of some samples, read into memory."""
        return self.stored.rows(self.order_S[torch.as_tensor(positions, dtype=torch.long)])

    def mixed(self, positions_BQ: Tensor) -> VisualTokens:
        """Visual tokens whose slot q comes from the image of sample positions_BQ[b, q]."""
        index_BQ = self.order_S[positions_BQ]
        slots_Q = torch.arange(positions_BQ.shape[1])
        return self.stored.map(lambda layer: layer[index_BQ, slots_Q])


class VisualFile:
    """Collects visual tokens batch by batch in one mapped file per layer."""

    def __init__(self, folder: Path | None) -> None:
        """Write below `folder`; None takes the system's folder for temporary files."""
        self._folder = folder
        self._spools: list[Spool] = []
        self._like: VisualTokens | None = None
        self._images = 0

    def append(self, visual: VisualTokens) -> None:
        """Add the images of one batch.

        Raises:
            ValueError: the disk is full.
        """
        if self._like is None:
            self._like = visual.rows([0])
            self._spools = [Spool(self._folder, "visual tokens") for _ in visual.layers]
        shapes = [(layer.shape[1:], layer.dtype) for layer in visual.layers]
        assert shapes == [(layer.shape[1:], layer.dtype) for layer in self._like.layers], "encoders keep their shapes"
        for spool, layer in zip(self._spools, visual.layers, strict=True):
            spool.append(layer)
        self._images += len(visual)

    def read(self, order: Sequence[int]) -> VisualSet:
        """All images; `order` says for each canonical position which one in the order of writing it is."""
        assert self._like is not None and sorted(order) == list(range(self._images))
        layers = tuple(
            spool.tensor(layer.dtype, self._images, *layer.shape[1:])
            for spool, layer in zip(self._spools, self._like.layers, strict=True)
        )
        return VisualSet(VisualTokens(layers), torch.as_tensor(order, dtype=torch.long))


class LossFile:
    """Collects losses per label token: condition by condition, round by round, batch by batch, always in one order."""

    def __init__(self, folder: Path | None, places: Sequence[int], tokens: Sequence[int]) -> None:
        """Prepare for samples that will come in the order `places` (canonical positions).

        Args:
            folder: as for `VisualFile`.
            places: canonical position of each sample, in the order in which they are scored.
            tokens: T of each sample, by canonical position.
        """
        self._spool = Spool(folder, "losses")
        self._start = np.empty(len(tokens), dtype=np.int64)
        lengths = [tokens[place] for place in places]
        self._start[list(places)] = np.cumsum([0, *lengths])[:-1]
        self._tokens, self._total = list(tokens), sum(lengths)

    def append(self, nll_N: Tensor) -> None:
        """Add the losses of the next samples, behind one another; they are kept in float64.

        Raises:
            ValueError: the disk is full.
        """
        self._spool.append(nll_N.double())

    def read(self, rounds: dict[str, int]) -> LossTable:
        """All losses; `rounds` says how often each condition was scored, in that order."""
        columns = sum(rounds.values())
        return LossTable(
            self._spool.tensor(torch.float64, columns, self._total).numpy(), rounds, self._start, self._tokens
        )


@dataclass(frozen=True)
class LossTable:
    """Losses of every label token under every condition, in a mapped file."""

    columns: FloatArray
    """One row per condition and round; label tokens of all samples behind one another."""
    rounds: dict[str, int]
    start: np.ndarray[tuple[int], np.dtype[np.int64]]
    tokens: list[int]

    def of(self, position: int) -> dict[str, list[FloatArray]]:
        """Per condition and round, the losses [T] of one sample; views into the file."""
        begin = int(self.start[position])
        part = self.columns[:, begin : begin + self.tokens[position]]
        found: dict[str, list[FloatArray]] = {}
        column = 0
        for name, rounds in self.rounds.items():
            if rounds:
                found[name] = list(part[column : column + rounds])
            column += rounds
        return found
