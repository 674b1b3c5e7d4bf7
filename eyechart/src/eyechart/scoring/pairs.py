"""The (caption, image) pairs that matching needs, and their scores: log p(caption | image) in nats.

A donor is a sample whose image has another content hash and whose caption differs, as for `shuffled`.

Dimension suffixes: S samples, K donors of each, M samples of the full block, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from eyechart.progress import Bar, SilentBar
from eyechart.scoring.batching import collate
from eyechart.scoring.contract import pair_nll
from eyechart.scoring.ranks import Ranks
from eyechart.seam import IntArray, PairScorer, Sample, ScorerOfBatches, VisualTokens
from eyechart.verdict.statistics import FloatArray

STREAM = 3
"""Second word of the seed; the donors of `shuffled` and the noise use other values."""
_MOST_ROWS = 128
"""Maximum number of captions scored with one image at once; an image with more captions is read again."""


class VisualSource(Protocol):
    """Visual tokens of all samples, in memory or in a file."""

    def rows(self, index: Sequence[int]) -> VisualTokens:
        """Return the visual tokens of some samples, by position."""
        ...


@dataclass(frozen=True)
class Captions:
    """Samples to be scored with each other's images."""

    samples: Sequence[Sample]
    """Samples with at least one label token each. Only their text is read."""
    visual: VisualSource
    """Visual tokens of the samples, in the same order."""
    features_SV: FloatArray | None = None
    """Pooled tower features in the same order, for hard and graded donors; None leaves these out."""


@dataclass(frozen=True)
class Candidates:
    """The images that each caption is scored with."""

    random_SK: IntArray
    """Donors drawn by seed."""
    hard_SK: IntArray | None
    """The allowed donors most similar to the caption's own image, the most similar first; None without features."""
    block_M: IntArray
    """Samples with distinct images and captions: each is scored with every other."""

    @property
    def k(self) -> int:
        """Number of images per caption, including its own image."""
        return int(self.random_SK.shape[1]) + 1

    def pairs(self) -> IntArray:
        """Return [P,2]: each (caption, image) pair once, ordered by image and then caption, including own pairs."""
        size = len(self.random_SK)
        captions_S = np.arange(size)
        parts = [captions_S * size + captions_S, np.add.outer(self.block_M, self.block_M * size).ravel()]
        for donors_SK in (self.random_SK, self.hard_SK):
            if donors_SK is not None:
                parts.append((captions_S[:, None] + donors_SK * size).ravel())
        keys_P = np.unique(np.concatenate(parts))
        return np.stack([keys_P % size, keys_P // size], axis=1)


def draw_candidates(
    images_S: IntArray, texts_S: IntArray, features_SV: FloatArray | None, k: int, block: int, seed: int
) -> Candidates:
    """Choose donors for every caption.

    Args:
        images_S: index of each sample's image; images with equal content hashes have equal indices.
        texts_S: index of each sample's caption; equal captions have equal indices.
        features_SV: pooled tower features, for the hard donors.
        k: requested number of images per caption; it is reduced if some caption has too few allowed donors.
        block: maximum number of samples in the full block.
        seed: seed of the run.
    """
    generator = np.random.default_rng([seed, STREAM])
    size = len(images_S)
    both_S = images_S * (1 + int(texts_S.max())) + texts_S
    refused_S = _alike(images_S) + _alike(texts_S) - _alike(both_S)
    count = min(k - 1, int((size - refused_S).min()))
    likeness = None if features_SV is None else Likeness(features_SV)
    random_SK = np.empty((size, count), dtype=np.int64)
    hard_SK = None if likeness is None else np.empty_like(random_SK)
    for i in range(size):  # one row at a time, because a table of all allowed pairs grows with the square of `size`
        allowed = np.flatnonzero((images_S != images_S[i]) & (texts_S != texts_S[i]))
        random_SK[i] = generator.choice(allowed, count, replace=False)
        if hard_SK is not None and likeness is not None:
            hard_SK[i] = allowed[np.argsort(-likeness.to_all(i)[allowed], kind="stable")[:count]]
    return Candidates(random_SK, hard_SK, _distinct(images_S, texts_S, block, generator))


def _alike(keys_S: IntArray) -> IntArray:
    """Return for each sample the number of samples with the same key, including itself."""
    _, place_S, counts = np.unique(keys_S, return_inverse=True, return_counts=True)
    return counts[place_S]


class Likeness:
    """Cosines between the rows of a table that may be in a mapped file; it is not copied."""

    def __init__(self, features_SV: FloatArray) -> None:
        """Store the norms of the rows; a row of zeros has a cosine of 0 with every row."""
        self._features_SV = features_SV
        norms_S = np.sqrt(np.einsum("sv,sv->s", features_SV, features_SV))
        self._norms_S = np.where(norms_S > 0, norms_S, 1.0)

    def to_all(self, i: int) -> FloatArray:
        """Return the cosine of row i with every row, [S]."""
        cosines_S: FloatArray = (self._features_SV @ self._features_SV[i]) / (self._norms_S * self._norms_S[i])
        return cosines_S

    def to(self, i: int, others_K: IntArray) -> FloatArray:
        """Return the cosine of row i with some rows, [K]."""
        products_K = self._features_SV[others_K] @ self._features_SV[i]
        cosines_K: FloatArray = products_K / (self._norms_S[others_K] * self._norms_S[i])
        return cosines_K


def _distinct(images_S: IntArray, texts_S: IntArray, most: int, generator: np.random.Generator) -> IntArray:
    chosen: list[int] = []
    images: set[int] = set()
    texts: set[int] = set()
    for i in generator.permutation(len(images_S)).tolist():
        if len(chosen) < most and images_S[i] not in images and texts_S[i] not in texts:
            chosen.append(i)
            images.add(int(images_S[i]))
            texts.add(int(texts_S[i]))
    return np.array(sorted(chosen), dtype=np.int64)


@dataclass(frozen=True)
class PairScores:
    """log p(caption | image) of the scored pairs."""

    pairs_P2: IntArray
    """The pairs, in the order of `Candidates.pairs`."""
    scores_P: FloatArray
    """Log-likelihood summed over the caption's label tokens, in nats."""

    def of(self, captions: IntArray, images: IntArray) -> FloatArray:
        """Return the scores of pairs that were scored, in the broadcast shape of the arguments."""
        size = 1 + int(self.pairs_P2.max())
        keys_P, wanted = self.pairs_P2[:, 1] * size + self.pairs_P2[:, 0], np.asarray(images * size + captions)
        place = np.searchsorted(keys_P, wanted)
        assert (keys_P[np.minimum(place, len(keys_P) - 1)] == wanted).all(), "a pair that was not scored"
        return self.scores_P[place]


def score_pairs(
    scorer: ScorerOfBatches,
    captions: Captions,
    pairs_P2: IntArray,
    batch_size: int,
    bar: Bar | None = None,
    ranks: Ranks | None = None,
) -> PairScores:
    """Score pairs that are ordered by image.

    A scorer with `pair_nll` reads each image once for all of its captions; any other scorer reads it for each pair.

    Args:
        scorer: the model, adapted to the scoring interface.
        captions: the captions and images to be paired.
        pairs_P2: (caption, image) positions.
        batch_size: pairs per forward pass. With `pair_nll`, an image's captions share a pass, which may be larger.
        bar: progress bar that counts pairs.
        ranks: processes that share the work.
    """
    bar, ranks = bar or SilentBar(), ranks or Ranks()
    scored: dict[int, FloatArray] = {}
    most = _MOST_ROWS if isinstance(scorer, PairScorer) else batch_size
    packs = list(_packs(pairs_P2[:, 1], batch_size, most))
    for task, (start, stop) in enumerate(packs):
        if ranks.mine(task):
            scored[task] = _score(scorer, captions, pairs_P2[start:stop])
        bar.update(stop - start)
    done = ranks.merge(scored)
    return PairScores(pairs_P2, np.concatenate([done[task] for task in range(len(packs))]))


def _packs(images_P: IntArray, size: int, most: int) -> Iterator[tuple[int, int]]:
    """Divide ordered pairs into packs. A pack ends at a new image if it is full, or when it has `most` pairs."""
    start = 0
    for place in range(1, len(images_P) + 1):
        rows, ends = place - start, place == len(images_P)
        if ends or rows >= most or (rows >= size and images_P[place] != images_P[place - 1]):
            yield start, place
            start = place


@torch.no_grad()
def _score(scorer: ScorerOfBatches, captions: Captions, pairs_P2: IntArray) -> FloatArray:
    # The pad id is never read, and no images are needed, because their visual tokens are passed instead.
    texts = [replace(captions.samples[i], pixels_CHW=None, features_PV=None) for i in pairs_P2[:, 0]]
    images, place_B = np.unique(pairs_P2[:, 1], return_inverse=True)
    losses = pair_nll(scorer, collate(texts), captions.visual.rows(images.tolist()), place_B.tolist())
    return np.array([-float(nll_T.double().sum()) for nll_T in losses])
