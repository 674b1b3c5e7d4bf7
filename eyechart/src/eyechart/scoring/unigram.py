"""Check 0: whether the language model predicts these captions better than the frequencies of their tokens do.

A model with the wrong tokenizer, with permuted embeddings, or for another language can still be influenced by a
connector. It may pass check 1 although its loss is so high that it cannot be reading the captions. It is therefore
compared with a unigram model, which only uses the frequency of each token:

    p(t) = (count(t) + 1) / (N + V)                       add-one smoothing; N label tokens counted, V to choose from
    D_i  = sum_t -ln p(t) - sum_t nll(t)                  paired, per caption, over exactly the scored label tokens
    gain = sum_i D_i / sum_i T_i                          nats per label token, clustered by image

The claim "the gain exceeds 0" has one standing (`verdict.standing`), and `costs` means that the captions are read. The
claim is about the language model and the text, not about the connector: a connector that is not yet trained can make
every caption unlikely. The lower loss of `correct` and `no-image` is therefore used; if no-image was not scored, the
loss with zeros is used instead.

The token counts come from the training captions. If there are none (rows scored without training data), every caption
is predicted from the scored captions of all other images. This is valid, because a caption is never used for its own
prediction. Such a unigram is weaker, because add-one smoothing over a large vocabulary needs many captions to reach a
loss well below ln V, so the check can only err towards "the captions are read". With a single image there are no other
captions to count, and the check is left out.

Dimension suffixes: S samples, N label tokens of all samples in their order, K distinct tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from eyechart.results import Unigram
from eyechart.seam import IGNORE_INDEX, IntArray
from eyechart.verdict import statistics
from eyechart.verdict.pair_statistics import as_result
from eyechart.verdict.statistics import FloatArray

MOST_CAPTIONS = 20_000
"""Maximum number of training captions counted; more would only change the frequencies of the rarest tokens."""


@dataclass(frozen=True)
class TokenCounts:
    """How often each token occurs among the label tokens of some captions."""

    ids_K: IntArray
    """Ids of the distinct tokens, ascending."""
    counts_K: IntArray
    captions: int

    @classmethod
    def of(cls, labels: Iterable[IntArray]) -> TokenCounts:
        """Count the labels [T] of captions, without positions that have IGNORE_INDEX."""
        chosen = [labels_T[labels_T != IGNORE_INDEX] for labels_T in labels]
        joined = np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)
        ids_K, counts_K = np.unique(joined, return_counts=True)
        return cls(ids_K, counts_K, len(chosen))

    @property
    def tokens(self) -> int:
        """Number of label tokens counted."""
        return int(self.counts_K.sum())


@dataclass(frozen=True)
class ScoredTokens:
    """The label tokens of the scored captions, one caption after the other."""

    ids_N: IntArray
    tokens_S: IntArray
    """Number of label tokens of each caption, at least 1; the sum is N."""
    clusters_S: IntArray
    """Index of each caption's image, 0..G-1."""


def check_unigram(
    scored: ScoredTokens, sums: Mapping[str, FloatArray], training: TokenCounts | None, size: int | None
) -> Unigram | None:
    """Run check 0.

    Args:
        scored: the label tokens of the scored captions.
        sums: summed NLL [S,1] per condition, nats per caption; only conditions whose losses are all finite.
        training: counts of the training captions; without them the other scored captions are counted.
        size: number of tokens in the vocabulary; by default the number of distinct tokens seen.

    Returns:
        The result; None if there is no finite loss with the right image, or nothing to count.
    """
    alone = training is None and (not len(scored.clusters_S) or int(scored.clusters_S.max()) == 0)
    if "correct" not in sums or alone or (training is not None and not training.tokens):
        return None
    known_K = scored.ids_N if training is None else np.concatenate([training.ids_K, scored.ids_N])
    vocabulary = max(size or 0, len(np.unique(known_K)))
    nll_N = _left_out(scored, vocabulary) if training is None else _counted(scored.ids_N, training, vocabulary)
    caption_N = np.repeat(np.arange(len(scored.tokens_S)), scored.tokens_S)
    unigram_S = np.bincount(caption_N, weights=nll_N).astype(np.float64)
    readings = ("correct", "no-image" if "no-image" in sums else "zero")
    best = min((name for name in readings if name in sums), key=lambda name: float(sums[name].sum()))
    found = statistics.estimate(unigram_S[:, None] - sums[best], scored.tokens_S, scored.clusters_S)
    return Unigram(
        loss=statistics.weighted_mean(unigram_S, scored.tokens_S),
        condition=best,
        gain=as_result(found),
        source="scored" if training is None else "training",
        captions=len(scored.tokens_S) if training is None else training.captions,
        tokens=len(scored.ids_N) if training is None else training.tokens,
        vocabulary=vocabulary,
    )


def _counted(ids_N: IntArray, training: TokenCounts, vocabulary: int) -> FloatArray:
    """Return the NLL [N] under the counts of the training captions, in nats."""
    place_N = np.minimum(np.searchsorted(training.ids_K, ids_N), len(training.ids_K) - 1)
    count_N = np.where(training.ids_K[place_N] == ids_N, training.counts_K[place_N], 0)
    nll_N: FloatArray = np.log(training.tokens + vocabulary) - np.log(count_N + 1.0)
    return nll_N


def _left_out(scored: ScoredTokens, vocabulary: int) -> FloatArray:
    """Return the NLL [N] of each token under the counts of all captions except those of its own image, in nats."""
    kinds, code_N = np.unique(scored.ids_N, return_inverse=True)
    image_N = np.repeat(scored.clusters_S, scored.tokens_S)
    all_K, all_G = np.bincount(code_N), np.bincount(image_N)
    _, pair_N, own_P = np.unique(image_N * len(kinds) + code_N, return_inverse=True, return_counts=True)
    others_N = len(scored.ids_N) - all_G[image_N]
    nll_N: FloatArray = np.log(others_N + float(vocabulary)) - np.log(all_K[code_N] - own_P[pair_N] + 1.0)
    return nll_N
