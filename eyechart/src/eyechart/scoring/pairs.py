"""Chooses the (caption, image) pairs that matching needs, and scores each by log p(caption | image) in nats.

A *donor* of a sample is another sample with a different image (by content hash) and a different caption, as in the
condition `shuffled`. In the *full block*, every caption is paired with every image. The *hard* donors are those whose
images are most similar to the sample's own image.

Dimension suffixes: S samples, K donors per sample, M samples of the full block, P pairs.
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
"""The second element of the seed sequence; other draws, such as those of `shuffled` and of noise, use other values."""
_MOST_ROWS = 128
"""The maximum number of pairs in one call of `pair_nll`. If the captions of an image are split over several calls, each
call processes the image."""


class VisualSource(Protocol):
    """The visual tokens of all samples, either in memory or in a file."""

    def rows(self, index: Sequence[int]) -> VisualTokens:
        """Return the visual tokens of the samples at the positions `index`."""
        ...


@dataclass(frozen=True)
class Captions:
    """Samples whose captions are scored with their own and with each other's images."""

    samples: Sequence[Sample]
    """The samples, each with at least one label token. Only their text is used."""
    visual: VisualSource
    """The visual tokens of the samples, in the same order."""
    features_SV: FloatArray | None = None
    """The mean-pooled tower features in the same order. If None, figures that depend on the similarity of images are
    left out."""


@dataclass(frozen=True)
class Candidates:
    """The images with which each caption is scored."""

    random_SK: IntArray
    """The donors of each sample, drawn at random with the seed."""
    hard_SK: IntArray | None
    """The hard donors: those whose images are most similar to the sample's own image, the most similar first; None
    without features."""
    block_M: IntArray
    """The samples of the full block, all with different images and captions; each caption is scored with each image."""

    @property
    def k(self) -> int:
        """K, the number of images per caption: its own image and those of the random donors."""
        return int(self.random_SK.shape[1]) + 1

    def pairs(self) -> IntArray:
        """Return every (caption, image) pair once, [P,2], including own pairs, sorted by image and then by caption."""
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
        images_S: the index of each sample's image; images with equal content hashes have equal indices.
        texts_S: the index of each sample's caption; equal captions have equal indices.
        features_SV: the mean-pooled tower features, by which the hard donors are chosen; without them, there are none.
        k: the requested number of images per caption; it is reduced if at least one caption has too few allowed donors.
        block: the maximum number of samples in the full block.
        seed: the seed of the run.
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
    """Return, for each sample, the number of samples with the same key, including the sample itself."""
    _, place_S, counts = np.unique(keys_S, return_inverse=True, return_counts=True)
    return counts[place_S]


class Likeness:
    """Computes cosine similarities between the rows of a table, which may be memory-mapped and is not copied."""

    def __init__(self, features_SV: FloatArray) -> None:
        """Compute the norms of the rows; a row of zeros has a cosine similarity of 0 with every row."""
        self._features_SV = features_SV
        norms_S = np.sqrt(np.einsum("sv,sv->s", features_SV, features_SV))
        self._norms_S = np.where(norms_S > 0, norms_S, 1.0)

    def to_all(self, i: int) -> FloatArray:
        """Return the cosine similarity of row i with every row, [S]."""
        cosines_S: FloatArray = (self._features_SV @ self._features_SV[i]) / (self._norms_S * self._norms_S[i])
        return cosines_S

    def to(self, i: int, others_K: IntArray) -> FloatArray:
        """Return the cosine similarity of row i with the rows `others_K`, [K]."""
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
    """The values of log p(caption | image) for the scored pairs."""

    pairs_P2: IntArray
    """The pairs, in the order of `Candidates.pairs`."""
    scores_P: FloatArray
    """The log-likelihood of each pair, summed over the caption's label tokens, in nats."""

    def of(self, captions: IntArray, images: IntArray) -> FloatArray:
        """Return the scores of some of the scored pairs; the two arguments are broadcast against each other."""
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
    """Score pairs that are sorted by image.

    A scorer with `pair_nll` processes each image once for all of its captions; any other scorer does so for every pair.

    Args:
        scorer: the model, adapted to the scoring interface.
        captions: the samples whose captions and images are paired.
        pairs_P2: the pairs, as positions (caption, image) in `captions`.
        batch_size: the number of pairs per forward pass. With `pair_nll`, the captions of an image share one pass,
            which may be larger (up to `_MOST_ROWS` pairs).
        bar: a progress bar whose unit is one pair.
        ranks: the processes that share the work.
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
    """Divide sorted pairs into packs, one for each forward pass.

    A pack with at least `size` pairs ends before the next image. A pack never has more than `most` pairs.
    """
    start = 0
    for place in range(1, len(images_P) + 1):
        rows, ends = place - start, place == len(images_P)
        if ends or rows >= most or (rows >= size and images_P[place] != images_P[place - 1]):
            yield start, place
            start = place


@torch.no_grad()
def _score(scorer: ScorerOfBatches, captions: Captions, pairs_P2: IntArray) -> FloatArray:
    # The pad id has no effect, and no images are needed, because their visual tokens are passed instead.
    texts = [replace(captions.samples[i], pixels_CHW=None, features_PV=None) for i in pairs_P2[:, 0]]
    images, place_B = np.unique(pairs_P2[:, 1], return_inverse=True)
    losses = pair_nll(scorer, collate(texts), captions.visual.rows(images.tolist()), place_B.tolist())
    return np.array([-float(nll_T.double().sum()) for nll_T in losses])
