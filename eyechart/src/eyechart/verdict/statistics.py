"""Paired gaps and their uncertainty: pure functions on arrays.

With T_i label tokens in sample i and D_i the summed NLL under a condition minus that under `correct`:

    gap = sum_i D_i / sum_i T_i                                              nats per label token, a ratio estimator
    SE  = sqrt( G/(G-1) * sum_g (sum_{i in g} e_i)^2 ) / sum_i T_i           e_i = D_i - T_i * gap, g an image

and for `shuffled`, where an image is also a donor, the dyadic form in `dyadic_variance`. Intervals use Student's t
with G-1 degrees of freedom. The gaps are weighted by tokens, so they differ from the mean of the captions' means.

Dimension suffixes: S samples, R derangements. G counts clusters (distinct images).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from eyechart.seam import IntArray

FloatArray = npt.NDArray[np.float64]
MOST_SAMPLES = 10**8
"""Largest number of samples that is recommended; a larger number would be useless advice."""


@dataclass(frozen=True)
class Estimate:
    """A gap with its standard error, in nats per label token."""

    gap: float
    se: float | None
    """Standard error; None if there are fewer than two distinct images, because it is then undefined."""
    samples: int
    clusters: int
    """G, the number of distinct images."""

    def lower(self, level: float) -> float | None:
        """Return the one-sided lower confidence bound, `gap - t(level, G-1) * SE`."""
        return None if self.se is None else self.gap - self._quantile(level) * self.se

    def upper(self, level: float) -> float | None:
        """Return the one-sided upper confidence bound, `gap + t(level, G-1) * SE`."""
        return None if self.se is None else self.gap + self._quantile(level) * self.se

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Return the two-sided confidence interval."""
        one_sided = 1 - (1 - level) / 2
        lower, upper = self.lower(one_sided), self.upper(one_sided)
        return None if lower is None or upper is None else (lower, upper)

    @property
    def sd(self) -> float | None:
        """Spread of one sample's contribution, `SE * sqrt(samples)`, including clustering and shared donors."""
        return None if self.se is None else self.se * math.sqrt(self.samples)

    def _quantile(self, level: float) -> float:
        return float(stdtrit(self.clusters - 1, level))  # scipy.stats takes a second to import


def clusters_of(keys: Sequence[str]) -> IntArray:
    """Number the distinct keys (image hashes) 0..G-1, and return one cluster id per sample."""
    return np.unique(np.asarray(keys, dtype=np.str_), return_inverse=True)[1].astype(np.int64)


def weighted_mean(sums_S: FloatArray, tokens_S: IntArray) -> float:
    """Return the token-weighted mean: the sum of the values divided by the sum of label tokens."""
    return float(sums_S.sum() / tokens_S.sum())


def clustered_variance(excess_S: FloatArray, tokens_S: IntArray, clusters_S: IntArray) -> float:
    """Variance of a ratio estimator, clustered by image: `G/(G-1) * sum_g (sum_{i in g} e_i)^2 / (sum_i T_i)^2`.

    Args:
        excess_S: e_i = D_i - T_i * gap, nats.
        tokens_S: T_i.
        clusters_S: cluster ids 0..G-1, with G at least 2.
    """
    sums_G = np.bincount(clusters_S, weights=excess_S)
    count = len(sums_G)
    return float(count / (count - 1) * (sums_G**2).sum() / tokens_S.sum() ** 2)


def dyadic_variance(excess_SR: FloatArray, donors_SR: IntArray, tokens_S: IntArray, clusters_S: IntArray) -> float:
    """Return the variance of the shuffled gap, for which every image is both an own image and a donor.

    If each image is a separate cluster:

        A_i = sum_r e_ir + sum_r e_{pi_r^-1(i), r}
        Var = n/(n-1) * (sum_i A_i^2 - sum_ir e_ir^2) / (R * sum_i T_i)^2

    With clusters, e is first summed within pairs (own cluster, donor cluster), and G replaces n. It is the dyadic
    cluster-robust form (Fafchamps and Gubert 2007; Aronow, Samii and Assenova 2015). It can be negative if the effects
    of own image and donor cancel, so `estimate` never uses it alone.

    Args:
        excess_SR: e_ir = D_ir - T_i * gap, with the gap over all R, nats.
        donors_SR: pi_r(i), the sample whose image replaces that of sample i.
        tokens_S: T_i.
        clusters_S: cluster ids 0..G-1, with G at least 2.
    """
    pairs = Pairs.of(excess_SR, tokens_S, clusters_S, donors_SR)
    return _dyadic(pairs, pairs.differences_P)


@dataclass(frozen=True)
class Pairs:
    """Differences as a list of P (caption, donor) pairs, any of which may be missing."""

    differences_P: FloatArray
    """D of each pair, in nats."""
    tokens_P: IntArray
    """Number of label tokens T of the caption."""
    own_P: IntArray
    """Number of the caption's own image."""
    donor_P: IntArray
    """Number of the image that replaced it."""

    @classmethod
    def of(cls, differences_SR: FloatArray, tokens_S: IntArray, clusters_S: IntArray, donors_SR: IntArray) -> Pairs:
        """Make the list of all pairs of a full table."""
        shape = donors_SR.shape
        return cls(
            differences_SR.ravel(),
            np.broadcast_to(tokens_S[:, None], shape).ravel(),
            np.broadcast_to(clusters_S[:, None], shape).ravel(),
            clusters_S[donors_SR].ravel(),
        )

    def without(self, image: int) -> Pairs:
        """Return the pairs in which an image occurs neither as the caption's own image nor as a donor."""
        keep_P = (self.own_P != image) & (self.donor_P != image)
        return Pairs(self.differences_P[keep_P], self.tokens_P[keep_P], self.own_P[keep_P], self.donor_P[keep_P])

    def gaps_without_each(self) -> FloatArray:
        """Return the gap of `without(g)` for all images g at once; nan if no pair is left.

        No pair has the same image twice, so that no pair is subtracted twice.
        """
        roles = np.concatenate([self.own_P, self.donor_P])
        differences_G = np.bincount(roles, weights=np.tile(self.differences_P, 2))
        tokens_G = np.bincount(roles, weights=np.tile(self.tokens_P, 2))
        left_G = self.tokens_P.sum() - tokens_G
        gaps_G: FloatArray = np.full(len(left_G), np.nan)
        np.divide(self.differences_P.sum() - differences_G, left_G, out=gaps_G, where=left_G > 0)
        return gaps_G

    def estimate(self) -> Estimate:
        """Estimate the gap as the function `estimate` does for a full table; `samples` of the result counts pairs."""
        gap = weighted_mean(self.differences_P, self.tokens_P)
        images = np.unique(self.own_P)
        if len(images) < 2:
            return Estimate(gap, None, len(self.differences_P), len(images))
        excess_P = self.differences_P - self.tokens_P * gap
        own_sums_G = np.bincount(self.own_P, weights=excess_P)
        factor = len(images) / (len(images) - 1) / float(self.tokens_P.sum()) ** 2
        plain = factor * float((own_sums_G**2).sum())
        return Estimate(gap, math.sqrt(max(plain, _dyadic(self, excess_P))), len(self.differences_P), len(images))


def _dyadic(pairs: Pairs, excess_P: FloatArray) -> float:
    images = int(max(pairs.own_P.max(), pairs.donor_P.max())) + 1
    pair = np.unique(pairs.own_P * images + pairs.donor_P, return_inverse=True)[1]
    pair_sums = np.bincount(pair, weights=excess_P)
    role_sums_G = np.bincount(pairs.own_P, weights=excess_P, minlength=images)
    role_sums_G = role_sums_G + np.bincount(pairs.donor_P, weights=excess_P, minlength=images)
    spread = float((role_sums_G**2).sum() - (pair_sums**2).sum())
    count = len(np.unique(np.concatenate([pairs.own_P, pairs.donor_P])))
    return float(count / (count - 1) * spread / float(pairs.tokens_P.sum()) ** 2)


def estimate(
    differences_SR: FloatArray, tokens_S: IntArray, clusters_S: IntArray, donors_SR: IntArray | None = None
) -> Estimate:
    """Estimate the gap of one condition from paired differences.

    With donors, the larger of the dyadic and the plain variance is used (the plain one for D_i averaged over R). The
    dyadic one alone is too small if own and donor effects cancel, and the plain one alone is too small if one vivid
    image helps its own caption and misleads others.

    Args:
        differences_SR: D_ir, summed NLL minus that under `correct`, nats; R is 1 without donors. All finite.
        tokens_S: T_i, each at least 1.
        clusters_S: cluster ids 0..G-1.
        donors_SR: donor of each difference, for `shuffled`.
    """
    assert np.isfinite(differences_SR).all() and (tokens_S > 0).all()
    assert donors_SR is not None or differences_SR.shape[1] == 1
    average_S = differences_SR.mean(axis=1)
    gap = weighted_mean(average_S, tokens_S)
    count = int(clusters_S.max()) + 1
    if count < 2:
        return Estimate(gap, None, len(tokens_S), count)
    variance = clustered_variance(average_S - tokens_S * gap, tokens_S, clusters_S)
    if donors_SR is not None:
        excess_SR = differences_SR - tokens_S[:, None] * gap
        variance = max(variance, dyadic_variance(excess_SR, donors_SR, tokens_S, clusters_S))
    return Estimate(gap, math.sqrt(variance), len(tokens_S), count)


def win_rate(differences_SR: FloatArray) -> float:
    """Return the share of (caption, donor) pairs whose caption is likelier with the correct image; a tie is no win."""
    return float((differences_SR > 0).mean())


def sample_size_factor(level: float = 0.99, power: float = 0.90) -> float:
    """Return C = (z_level + z_power)^2 of a one-sided test: 13.02 for 99%/90%, 8.56 for 95%/90%."""
    factor: float = (NormalDist().inv_cdf(level) + NormalDist().inv_cdf(power)) ** 2
    return factor


def needed_samples(sd: float, gap: float, margin: float, level: float = 0.99, power: float = 0.90) -> int | None:
    """Return the number of samples with which a one-sided bound separates `gap` from `margin` with probability `power`.

        n = C * (sd / (gap - margin))^2

    Args:
        sd: standard deviation per sample, in nats per token (`Estimate.sd`).
        gap: the true gap, assumed to equal the measured one.
        margin: the margin; if the gap is below it, the same n shows that the gap is smaller.
        level: one-sided confidence of the bound.
        power: probability that the bound separates them.

    Returns:
        n rounded up; None if the gap is so close to the margin that more than `MOST_SAMPLES` would be needed.
    """
    spread, distance = math.sqrt(sample_size_factor(level, power)) * sd, abs(gap - margin)
    if not spread < math.sqrt(MOST_SAMPLES) * distance:
        return None
    return math.ceil((spread / distance) ** 2)
