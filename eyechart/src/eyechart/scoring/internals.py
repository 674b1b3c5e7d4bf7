"""Measures the connector without the language model: at which stage the picture is lost, and properties of its output.

    variance share   sum over slots of the variance across images / variance over images and slots, per stage
    image share      variance across images / mean square, per stage
    RMS ratio        RMS of the visual tokens / RMS of the text embeddings
    effective rank   exp(entropy of the normalised singular values) of one image's tokens (Roy and Vetterli 2007)
    kNN overlap      share of an image's 10 nearest images by tower features that are still nearest after the connector

A slot is one position of a stage's output: a patch of the tower, or a visual token of the connector. A stage with a
variance share near 0 has collapsed: its output is the same for all images, even if its slots differ from each other. If
the same constant is added to all slots of every image, the variance share does not reveal it, but the image share does.

Dimension suffixes: N images, S slots (patches of the tower, visual tokens of the connector), C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import entr

from eyechart.results import Internals
from eyechart.scoring.pairs import Likeness
from eyechart.scoring.spool import Spool
from eyechart.verdict.statistics import FloatArray

TOWER, OUTPUT = "tower", "projector"
"""The names of the first and the last stage; there may be other stages between them."""
NEIGHBOURS = 10
_COMPARED = 2000
"""The maximum number of images whose neighbours are compared; the time grows with the square of this number."""
AT_ONCE = 1000
"""The number of images whose mean-pooled features are copied, or sent to another process, at a time."""


@dataclass
class Spread:
    """The running mean and sum of squared deviations of values [N,S,C] over images (Chan, Golub and LeVeque 1979)."""

    images: int = 0
    mean_SC: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    squares_SC: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, values_NSC: FloatArray) -> None:
        """Add the values of more images."""
        mean_SC = values_NSC.mean(axis=0)
        self.merge(Spread(len(values_NSC), mean_SC, ((values_NSC - mean_SC) ** 2).sum(axis=0)))

    def merge(self, other: Spread) -> None:
        """Add the values of another `Spread`."""
        if not other.images:
            return
        if not self.images:
            self.images, self.mean_SC, self.squares_SC = other.images, other.mean_SC, other.squares_SC
            return
        images = self.images + other.images
        step_SC = other.mean_SC - self.mean_SC
        self.squares_SC = self.squares_SC + other.squares_SC + step_SC**2 * self.images * other.images / images
        self.mean_SC = self.mean_SC + step_SC * other.images / images
        self.images = images

    def share(self) -> float | None:
        """Return the share of the variance that is between images; None if there is only one slot or no variance.

        With a single slot, the share would always be 1, because images would account for all of the variance.
        """
        between = float(self.squares_SC.sum()) / max(1, self.images)
        slots = float(((self.mean_SC - self.mean_SC.mean(axis=0)) ** 2).sum())
        if self.mean_SC.shape[0] < 2 or between + slots == 0:
            return None
        return between / (between + slots)

    def part(self) -> float | None:
        """Return the share of the mean square that is variance between images; None if all values are zero."""
        between = float(self.squares_SC.sum())
        constant = self.images * float((self.mean_SC**2).sum())
        return between / (between + constant) if between + constant > 0 else None


@dataclass(frozen=True)
class Pooled:
    """The features of some images, averaged over slots, before and after the connector, for other processes."""

    rows: list[int]
    ends: dict[str, npt.NDArray[np.float32]]
    """The averaged features [N,C], by stage."""


@dataclass
class Inside:
    """Data collected from the images: sums, and two mean-pooled vectors per image in memory-mapped files."""

    scratch: Path | None = None
    """The folder for temporary files; if None, the system's folder."""
    spreads: dict[str, Spread] = field(default_factory=dict)
    squares: float = 0.0
    values: int = 0
    """The number of values in the connector's output; `squares` is their sum of squares."""
    ranks: list[float] = field(default_factory=list)
    rank_of: int = 0
    places: dict[int, int] = field(default_factory=dict)
    """The position of each image's vectors in `files`, by row of the data file."""
    files: dict[str, tuple[Spool, int]] = field(default_factory=dict)
    """The file of the vectors and their width C, by stage."""

    def add(self, rows: list[int], stages: Mapping[str, FloatArray]) -> None:
        """Add the images of a batch.

        Args:
            rows: the row of each image in its data file; no row may be added twice.
            stages: the values [N,S,C] by stage, in the order in which an image passes through the stages.

        Raises:
            ValueError: the disk is full.
        """
        ends = {}
        for name, values_NSC in stages.items():
            values_NSC = values_NSC.astype(np.float64)
            self.spreads.setdefault(name, Spread()).add(values_NSC)
            if name in (TOWER, OUTPUT):
                ends[name] = values_NSC.mean(axis=1).astype(np.float32)
        self.take(Pooled(rows, ends))
        output_NSC = stages[OUTPUT].astype(np.float64)
        self.squares += float((output_NSC**2).sum())
        self.values += output_NSC.size
        # Values that are not finite have no rank. The sum of squares is then not finite either, and no figure is
        # computed.
        self.ranks += effective_ranks(output_NSC).tolist() if np.isfinite(output_NSC).all() else []
        self.rank_of = min(output_NSC.shape[1:])

    def has(self, row: int) -> bool:
        """Return whether the image of this row was added."""
        return row in self.places

    def take(self, pooled: Pooled) -> None:
        """Add feature vectors without changing the sums."""
        assert not any(map(self.has, pooled.rows)), "an image was counted twice"
        self.places |= {row: len(self.places) + i for i, row in enumerate(pooled.rows)}
        for name, values_NC in pooled.ends.items():
            if name not in self.files:
                self.files[name] = (Spool(self.scratch, "pooled features"), values_NC.shape[1])
            self.files[name][0].append(torch.from_numpy(values_NC))

    def pooled(self, start: int, stop: int) -> Pooled:
        """Return the vectors of images start to stop-1, in the order in which they were added, copied into memory."""
        rows = list(islice(self.places, start, stop))
        return Pooled(rows, {name: self._mapped(name)[start:stop].copy() for name in self.files})

    def sums(self) -> Inside:
        """Return a copy that has the sums but no vectors."""
        return replace(self, places={}, files={})

    def merge(self, other: Inside) -> None:
        """Add the data that another process has collected."""
        for name, spread in other.spreads.items():
            self.spreads.setdefault(name, Spread()).merge(spread)
        for start in range(0, len(other.places), AT_ONCE):
            self.take(other.pooled(start, start + AT_ONCE))
        self.squares, self.values = self.squares + other.squares, self.values + other.values
        self.ranks += other.ranks
        self.rank_of = max(self.rank_of, other.rank_of)

    def features(self, rows: list[int]) -> FloatArray:
        """Return the mean-pooled tower features [S,V] of these rows, in a memory-mapped file; matching uses them."""
        return self._ordered(TOWER, rows)

    def overlap(self) -> tuple[float | None, int]:
        """Return the kNN overlap of the connector's input and output, and the number of images compared.

        The images compared are the first ones by row.
        """
        rows = sorted(self.places)[:_COMPARED]
        return knn_overlap(self._ordered(TOWER, rows), self._ordered(OUTPUT, rows)), len(rows)

    def _ordered(self, stage: str, rows: list[int]) -> FloatArray:
        ordered, vectors_NC = Spool(self.scratch, "pooled features"), self._mapped(stage)
        for start in range(0, len(rows), AT_ONCE):
            chosen = [self.places[row] for row in rows[start : start + AT_ONCE]]
            ordered.append(torch.from_numpy(vectors_NC[chosen].astype(np.float64)))
        features_SC: FloatArray = ordered.tensor(torch.float64, len(rows), vectors_NC.shape[1]).numpy()
        return features_SC

    def _mapped(self, stage: str) -> npt.NDArray[np.float32]:
        spool, width = self.files[stage]
        values_NC: npt.NDArray[np.float32] = spool.tensor(torch.float32, len(self.places), width).numpy()
        return values_NC


def effective_ranks(tokens_NSC: FloatArray) -> FloatArray:
    """Return the effective rank of each image's tokens, [N]; 0 for a matrix of zeros."""
    if tokens_NSC.shape[1] > tokens_NSC.shape[2]:
        tokens_NSC = tokens_NSC.transpose(0, 2, 1)
    # The eigenvalues of the small Gram matrix are the squared singular values.
    squares_NS = np.linalg.eigvalsh(tokens_NSC @ tokens_NSC.transpose(0, 2, 1))
    values_NS = np.sqrt(np.maximum(squares_NS, 0.0))
    totals_N = values_NS.sum(axis=1)
    shares_NS = values_NS / np.where(totals_N > 0, totals_N, 1.0)[:, None]
    ranks_N: FloatArray = np.exp(entr(shares_NS).sum(axis=1))
    return np.where(totals_N > 0, ranks_N, 0.0)


def knn_overlap(before_NC: FloatArray, after_NC: FloatArray, neighbours: int = NEIGHBOURS) -> float | None:
    """Return the share of an image's nearest neighbours before the connector that are still nearest after it.

    The share is averaged over images. Neighbours are ranked by cosine similarity.

    Returns:
        A share from 0 to 1. Unrelated features give about neighbours/(N-1). The return value is None if there are so
        few images that this chance level is not small.
    """
    if len(before_NC) < 2 * neighbours + 1:
        return None
    spaces = (Likeness(before_NC), Likeness(after_NC))
    shared = 0
    for i in range(len(before_NC)):
        before, after = (_nearest(space, i, neighbours) for space in spaces)
        shared += len(before & after)
    return shared / (neighbours * len(before_NC))


def _nearest(space: Likeness, i: int, neighbours: int) -> set[int]:
    alike_N = space.to_all(i)
    alike_N[i] = -np.inf
    return set(np.argsort(-alike_N, kind="stable")[:neighbours].tolist())


def internals(seen: Inside, text_rms: float) -> Internals | None:
    """Return all figures, computed from the data of the added images.

    Args:
        seen: the data collected from the images.
        text_rms: the root mean square of the language model's text embeddings.

    Returns:
        The figures; None if there are no images or if any value is not finite.
    """
    if not seen.values or not math.isfinite(seen.squares):
        return None
    overlap, compared = seen.overlap()
    shares = {name: share for name, spread in seen.spreads.items() if (share := spread.share()) is not None}
    parts = {name: part for name, spread in seen.spreads.items() if (part := spread.part()) is not None}
    return Internals(
        variance_share={name: _steady(share) for name, share in shares.items()},
        rms_ratio=_steady(math.sqrt(seen.squares / seen.values) / text_rms),
        image_share={name: _steady(part) for name, part in parts.items()},
        effective_rank=_steady(math.fsum(seen.ranks) / len(seen.ranks)),
        effective_rank_of=seen.rank_of,
        knn_overlap=overlap,
        neighbours=NEIGHBOURS,
        compared=compared,
        images=len(seen.ranks),
        stages=list(seen.spreads),
    )


def _steady(value: float) -> float:
    """Round to nine significant digits, because the last digits of a sum depend on the order of the processes."""
    return float(f"{value:.9g}")
