"""Check 0: whether the language model predicts the captions better than a unigram model does.

A language model with the wrong tokenizer, with permuted embeddings, or for another language can still react to the
output of a connector. It may therefore pass check 1 (whether the picture changes the loss), although its loss is too
high for a model that understands the captions. Check 0 compares its loss with the loss of a unigram model, which only
uses the frequency of each token:

    p(t) = (count(t) + 1) / (N + V)                       add-one smoothing; N label tokens counted, V in the vocabulary
    D_i  = sum_t -ln p(t) - sum_t nll(t)                  paired, per caption, over exactly the scored label tokens
    gain = sum_i D_i / sum_i T_i                          nats per label token, clustered by image

`verdict.standing` decides whether the gain is above 0. If the standing of this claim is `costs`, the gain is above 0
with 99% confidence: the language model can read the captions. The claim concerns the language model and the text, not
the connector, and an untrained connector can make every caption unlikely. The loss of the language model is therefore
the lower of its losses with the right picture (`correct`) and without any picture (`no-image`). If `no-image` was not
scored, the loss with visual tokens of zeros (`zero`) is used instead of it.

The tokens are counted in the training captions. If there is no training data, every caption is predicted from the
scored captions of all other images. This is valid, because no caption is used to predict itself. A unigram model of few
captions is weaker: with add-one smoothing over a large vocabulary, its loss falls well below ln V only with many
captions. Without training data, the check can therefore only err towards "the captions are read". If all captions
belong to a single image, there are no other captions to count, and the check is not run.

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
    """The number of occurrences of each token among the label tokens of a set of captions."""

    ids_K: IntArray
    """Ids of the distinct tokens, ascending."""
    counts_K: IntArray
    captions: int

    @classmethod
    def of(cls, labels: Iterable[IntArray]) -> TokenCounts:
        """Count the tokens in the labels [T] of each caption, without positions that have IGNORE_INDEX."""
        chosen = [labels_T[labels_T != IGNORE_INDEX] for labels_T in labels]
        joined = np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)
        ids_K, counts_K = np.unique(joined, return_counts=True)
        return cls(ids_K, counts_K, len(chosen))

    @property
    def tokens(self) -> int:
        """The number of label tokens counted."""
        return int(self.counts_K.sum())


@dataclass(frozen=True)
class ScoredTokens:
    """The label tokens of all scored captions, concatenated in the order of the captions."""

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
        training: token counts of the training captions; if None, the scored captions of other images are counted.
        size: number of tokens in the vocabulary; if None, the number of distinct tokens in the captions.

    Returns:
        The result; None if the losses with the right image are missing or not finite, or if there is nothing to count.
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
    """Return the NLL [N] of each token under the unigram model of the training captions, in nats."""
    place_N = np.minimum(np.searchsorted(training.ids_K, ids_N), len(training.ids_K) - 1)
    count_N = np.where(training.ids_K[place_N] == ids_N, training.counts_K[place_N], 0)
    nll_N: FloatArray = np.log(training.tokens + vocabulary) - np.log(count_N + 1.0)
    return nll_N


def _left_out(scored: ScoredTokens, vocabulary: int) -> FloatArray:
    """Return the NLL [N] of each token, in nats, under the unigram model of all captions of other images."""
    kinds, code_N = np.unique(scored.ids_N, return_inverse=True)
    image_N = np.repeat(scored.clusters_S, scored.tokens_S)
    all_K, all_G = np.bincount(code_N), np.bincount(image_N)
    _, pair_N, own_P = np.unique(image_N * len(kinds) + code_N, return_inverse=True, return_counts=True)
    others_N = len(scored.ids_N) - all_G[image_N]
    nll_N: FloatArray = np.log(others_N + float(vocabulary)) - np.log(all_K[code_N] - own_P[pair_N] + 1.0)
    return nll_N
