"""Means over (caption, image) pairs and their uncertainty: pure functions on arrays.

    pair_gap        mean loss that the donors of a list of pairs cost; every image may be an own one and a donor
    bootstrap_mean  mean of one bounded figure per caption (a share, a reciprocal rank)

Dimension suffixes: S captions, P pairs. G counts clusters (distinct images).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from qwen3_vlm.batch import IntArray
from qwen3_vlm.checks.statistics import FloatArray
from qwen3_vlm.results import Estimated

_RESAMPLES = 2000
_LEVEL = 0.95


def pair_gap(differences_P: FloatArray, tokens_P: IntArray, own_P: IntArray, donor_P: IntArray) -> Estimated:
    """`sum_p D_p / sum_p T_p` over pairs, with a standard error for images in two roles.

    The variance is the larger of the one clustered by own image and the dyadic one, as for the shuffled gap in
    `statistics`, for a list of pairs of any make-up instead of R derangements:

        e_p = D_p - T_p * gap,   A_g = sum of e_p over the pairs in which image g is the own one or the donor
        Var = G/(G-1) * (sum_g A_g^2 - sum_(own,donor) (sum of e_p)^2) / (sum_p T_p)^2

    Args:
        differences_P: NLL of the caption with the donor minus that with its own image, nats. All finite.
        tokens_P: what to divide by: label tokens for nats per token, ones for nats per caption (or word).
        own_P: cluster of the own image, from 0.
        donor_P: cluster of the donor.

    Returns:
        The gap with its 95% interval (Student's t, G-1 degrees of freedom); no interval with fewer than two images.
    """
    assert len(differences_P) and np.isfinite(differences_P).all() and tokens_P.sum() > 0
    total = float(tokens_P.sum())
    gap = float(differences_P.sum()) / total
    excess_P = differences_P - tokens_P * gap
    own_count = len(np.unique(own_P))
    if own_count < 2:
        return Estimated(value=gap)
    plain = own_count / (own_count - 1) * float((np.bincount(own_P, excess_P) ** 2).sum())
    size = 1 + int(max(own_P.max(), donor_P.max()))
    role_sums = np.bincount(own_P, excess_P, size) + np.bincount(donor_P, excess_P, size)
    pair_sums = np.bincount(np.unique(own_P * size + donor_P, return_inverse=True)[1], excess_P)
    count = len(np.union1d(own_P, donor_P))
    dyadic = count / (count - 1) * float((role_sums**2).sum() - (pair_sums**2).sum())
    se = math.sqrt(max(plain, dyadic)) / total
    half = float(stats.t.ppf(1 - (1 - _LEVEL) / 2, own_count - 1)) * se
    return Estimated(value=gap, se=se, ci95=(gap - half, gap + half))


def bootstrap_mean(values_S: FloatArray, clusters_S: IntArray, generator: np.random.Generator) -> Estimated:
    """Mean over captions with a percentile bootstrap interval; captions of one image are drawn together.

    Where every caption has the same value the bootstrap sees no spread at all. For values of 0 or 1 the exact binomial
    interval (Clopper and Pearson 1934) over the images stands in, so that 20 hits of 20 do not read as certainty;
    other equal values, such as 1/k where all k images tie, have none.

    Args:
        values_S: one figure per caption.
        clusters_S: cluster ids of their images.
        generator: draws the resamples.
    """
    value = float(values_S.mean())
    ids, place_S = np.unique(clusters_S, return_inverse=True)
    if len(ids) < 2:
        return Estimated(value=value)
    if np.ptp(values_S) == 0:
        if value not in (0.0, 1.0):
            return Estimated(value=value, se=0.0, ci95=(value, value))
        exact = stats.binomtest(round(value * len(ids)), len(ids)).proportion_ci(_LEVEL)
        return Estimated(value=value, ci95=(float(exact.low), float(exact.high)))
    sums_G, counts_G = np.bincount(place_S, values_S), np.bincount(place_S).astype(np.float64)
    drawn = stats.bootstrap(
        (sums_G, counts_G),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=200,
        confidence_level=_LEVEL,
        method="percentile",
        rng=generator,
    )
    low, high = drawn.confidence_interval
    return Estimated(value=value, se=float(drawn.standard_error), ci95=(float(low), float(high)))
