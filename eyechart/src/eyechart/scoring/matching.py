"""Measures matching: whether a caption is likelier with its own image than with other images.

    S_ij = sum_t log p(token t of caption i | image j)        nats per caption; a higher value is likelier

Each caption i is scored with its own image and those of K-1 donors (samples with another image and another caption).
How likely the caption is without any image has no effect, because scores are only compared between images of the same
caption. Some images make every caption likelier (hubness). This effect cancels out only in the EMAP gain.

    image R@1     1/(number tied for best) if the caption's own image is among the best, otherwise 0; chance is 1/K
    MRR           1/(rank of the caption's own image); tied images get their mean rank
    gain          S_ii - mean over donors of S_ij
    EMAP gain     mean diagonal of a full n x n block, centred by rows and columns (after Hessel and Lee 2020)
    InfoNCE       ln K + mean log softmax_j(S_ij / temperature) at the caption's own image (van den Oord et al. 2018)

Matching is not a retrieval benchmark, which would rank all images for each caption and all captions for each image.

Dimension suffixes: S captions, K donors per caption, M captions of the full block (in which every caption is scored
with every image).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from eyechart.results import Decile, Estimated, Matching
from eyechart.scoring.pairs import STREAM, Captions, Likeness, PairScores, draw_candidates, score_pairs
from eyechart.scoring.plan import Execution
from eyechart.seam import IntArray, ScorerOfBatches
from eyechart.settings import AblationSettings
from eyechart.verdict.pair_statistics import as_result, bootstrap_mean
from eyechart.verdict.statistics import FloatArray, Pairs, clusters_of, estimate

BLOCK = 32
"""The number of captions in the full block, in which each caption is scored with the image of each (32**2 pairs)."""
_DECILES = 10
_SATURATED = 0.9
"""If the InfoNCE bound is above this share of its maximum ln K, the true mutual information can be much larger."""
_TEMPERATURES = (0.1, 100.0)
"""The range of temperatures that is searched. At a lower temperature, a single caption that prefers a wrong image could
dominate the result if it is in the half of the images that was not used for fitting."""


def match(
    scorer: ScorerOfBatches,
    captions: Captions,
    settings: AblationSettings,
    seed: int,
    execution: Execution | None = None,
) -> Matching:
    """Score every caption with its own image and with other images, and estimate the figures of matching.

    Args:
        scorer: the model, adapted to the scoring interface. If it has `pair_nll`, an image is processed once for all
            captions.
        captions: the scored samples in canonical order (by row), each with label tokens and an image hash.
        settings: the settings, of which `matching_k` and `batch_size` are used.
        seed: the seed for the draws of donors, the full block, the halves of the images and the bootstrap resamples.
        execution: the processes that share the work, and the progress bar, whose unit is one (caption, image) pair.

    Returns:
        The figures. A figure that cannot be estimated is None; if none can be, `problem` gives the reason.
    """
    samples, features_SV, execution = captions.samples, captions.features_SV, execution or Execution()
    images_S = clusters_of([sample.image_hash for sample in samples])
    texts_S = clusters_of([sample.caption for sample in samples])
    found = draw_candidates(images_S, texts_S, features_SV, settings.matching_k, BLOCK, seed) if samples else None
    if found is None or found.k < 2:
        return _nothing(len(samples), settings.matching_k, "no-two-samples-differ")
    pairs_P2 = found.pairs()
    bar = execution.progress(len(pairs_P2))
    try:
        scores = score_pairs(scorer, captions, pairs_P2, settings.batch_size, bar, execution.ranks)
    finally:
        bar.close()
    if not np.isfinite(scores.scores_P).all():
        return _nothing(len(samples), settings.matching_k, "not-finite")
    captions_S = np.arange(len(samples))
    own_S = scores.of(captions_S, captions_S)
    random_SK = scores.of(captions_S[:, None], found.random_SK)
    generator = np.random.default_rng([seed, STREAM, 1])
    hard, chance = _none(), 1 / found.k
    if found.hard_SK is not None:
        hard_SK = scores.of(captions_S[:, None], found.hard_SK)
        hard = bootstrap_mean(recall_at_1(own_S, hard_SK), images_S, generator, chance)
    information, temperature = _infonce(own_S, random_SK, images_S, generator)
    bound = math.log(found.k)
    tokens_S = np.array([sample.label_tokens for sample in samples], dtype=np.int64)
    return Matching(
        k=found.k,
        wanted_k=settings.matching_k,
        captions=len(samples),
        r_at_1=bootstrap_mean(recall_at_1(own_S, random_SK), images_S, generator, chance),
        mrr=bootstrap_mean(reciprocal_rank(own_S, random_SK), images_S, generator),
        hard_r_at_1=hard,
        image_specific_gain=_gain(own_S, random_SK, images_S, found.random_SK),
        emap_gain=_emap(scores, found.block_M),
        infonce=information,
        infonce_saturated=information.value is not None and information.value >= _SATURATED * bound,
        temperature=temperature,
        deciles=graded(own_S, random_SK, tokens_S, images_S, found.random_SK, features_SV),
    )


def recall_at_1(own_S: FloatArray, others_SK: FloatArray) -> FloatArray:
    """Return for each caption 1/(number tied for best) if its own image is among the best, otherwise 0."""
    ties_S = (others_SK == own_S[:, None]).sum(axis=1)
    beaten_S = (others_SK > own_S[:, None]).any(axis=1)
    return np.where(beaten_S, 0.0, 1.0 / (1 + ties_S))


def reciprocal_rank(own_S: FloatArray, others_SK: FloatArray) -> FloatArray:
    """Return 1 divided by the rank of the caption's own image; rank 1 is best, and tied images get their mean rank."""
    higher_S = (others_SK > own_S[:, None]).sum(axis=1)
    ties_S = (others_SK == own_S[:, None]).sum(axis=1)
    mid_rank_S: FloatArray = 1 + higher_S + ties_S / 2
    return 1.0 / mid_rank_S


def emap_gains(scores_MM: FloatArray) -> FloatArray:
    """Return the diagonal of a block after subtracting row means and column means (and adding the overall mean)."""
    centred_MM = scores_MM - scores_MM.mean(axis=1, keepdims=True) - scores_MM.mean(axis=0) + scores_MM.mean()
    return np.diagonal(centred_MM).copy()


def infonce_terms(own_S: FloatArray, others_SK: FloatArray, temperature: float) -> FloatArray:
    """Return each caption's term of the InfoNCE bound, in nats; the bound is their mean, and no term exceeds ln K."""
    scores_SK = np.concatenate([own_S[:, None], others_SK], axis=1) / temperature
    own_share_S: FloatArray = log_softmax(scores_SK, axis=1)[:, 0]
    return math.log(scores_SK.shape[1]) + own_share_S


def best_temperature(own_S: FloatArray, others_SK: FloatArray) -> float:
    """Return the temperature that maximises the InfoNCE bound on these captions.

    The search finds the maximum, because the bound is concave in 1/temperature.
    """
    low, high = (math.log(edge) for edge in _TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: -float(infonce_terms(own_S, others_SK, math.exp(log_t)).mean()), bounds=(low, high)
    )
    return math.exp(float(found.x))


def _infonce(
    own_S: FloatArray, others_SK: FloatArray, images_S: IntArray, generator: np.random.Generator
) -> tuple[Estimated, float]:
    """Return the InfoNCE bound with its interval, and the temperature (the geometric mean of two temperatures).

    The images are split into two halves. Each half uses the temperature fitted on the other half, because a temperature
    fitted on the same images would make the bound too large.
    """
    images = generator.permutation(np.unique(images_S))
    if len(images) < 2:
        return _none(), 1.0
    first_S = np.isin(images_S, images[: len(images) // 2])
    terms_S, temperatures = np.empty(len(own_S)), []
    for fitted_S, reported_S in ((first_S, ~first_S), (~first_S, first_S)):
        temperatures.append(best_temperature(own_S[fitted_S], others_SK[fitted_S]))
        terms_S[reported_S] = infonce_terms(own_S[reported_S], others_SK[reported_S], temperatures[-1])
    return bootstrap_mean(terms_S, images_S, generator, 0.0, share=False), math.sqrt(temperatures[0] * temperatures[1])


def _gain(own_S: FloatArray, others_SK: FloatArray, images_S: IntArray, donors_SK: IntArray) -> Estimated:
    """Return the mean of S_ii - S_ij over all (caption, donor) pairs."""
    pairs = Pairs.of(own_S[:, None] - others_SK, np.ones_like(images_S), images_S, donors_SK)
    return as_result(pairs.estimate())


def _emap(scores: PairScores, block_M: IntArray) -> Estimated | None:
    """Return the EMAP gain over the full block, with the standard error of a mean over its captions."""
    if len(block_M) < 3:
        return None
    gains_M = emap_gains(scores.of(block_M[:, None], block_M[None, :]))
    # Centring has removed the effect that an image has on all captions, so that captions are the only clusters.
    each_M = np.arange(len(block_M))
    return as_result(estimate(gains_M[:, None], np.ones_like(each_M), each_M))


def graded(
    own_S: FloatArray,
    others_SK: FloatArray,
    tokens_S: IntArray,
    images_S: IntArray,
    donors_SK: IntArray,
    features_SV: FloatArray | None,
) -> list[Decile]:
    """Return the gap, in nats per label token, for each tenth of the (own image, donor) pairs, sorted by similarity.

    Returns:
        One item for each tenth, from least to most similar. The list is empty without features or with fewer than ten
        pairs.
    """
    if features_SV is None or donors_SK.size < _DECILES:
        return []
    likeness = Likeness(features_SV)
    # Cosine similarities are computed row by row, because the features of all donors at once would take gigabytes.
    alike_P = np.concatenate([likeness.to(i, donors_K) for i, donors_K in enumerate(donors_SK)])
    pairs = Pairs.of(own_S[:, None] - others_SK, tokens_S, images_S, donors_SK)
    deciles = []
    for chosen in np.array_split(np.argsort(alike_P, kind="stable"), _DECILES):
        edges = (float(alike_P[chosen[0]]), float(alike_P[chosen[-1]]))
        gap = as_result(_some(pairs, chosen).estimate())
        deciles.append(Decile(similarity=edges, pairs=len(chosen), gap=gap))
    return deciles


def _some(pairs: Pairs, chosen: IntArray) -> Pairs:
    return Pairs(pairs.differences_P[chosen], pairs.tokens_P[chosen], pairs.own_P[chosen], pairs.donor_P[chosen])


def _none() -> Estimated:
    return Estimated(value=None)


def _nothing(captions: int, wanted_k: int, why: Literal["no-two-samples-differ", "not-finite"]) -> Matching:
    none = _none()
    return Matching(
        k=1,
        wanted_k=wanted_k,
        problem=why,
        captions=captions,
        r_at_1=none,
        mrr=none,
        hard_r_at_1=none,
        image_specific_gain=none,
        infonce=none,
    )
