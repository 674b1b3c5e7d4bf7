"""Estimates paired gaps and their standard errors, with pure functions on arrays.

A gap is the loss under a condition minus the loss with the right picture (`correct`). Let T_i be the number of label
tokens of sample i, and D_i its summed NLL under the condition minus its summed NLL under `correct`. Then:

    gap = sum_i D_i / sum_i T_i                                              nats per label token, a ratio estimator
    SE  = sqrt( G/(G-1) * sum_g (sum_{i in g} e_i)^2 ) / sum_i T_i           e_i = D_i - T_i * gap, g an image

Under the condition `shuffled`, every sample gets the image of another sample, its donor, in each of R derangements. An
image then contributes both as own image and as donor, so the dyadic form of the variance (`dyadic_variance`) is also
computed. Confidence intervals use Student's t with G-1 degrees of freedom. Because a gap is weighted by tokens, it
differs from the average of the captions' mean gaps.

Dimension suffixes: S samples, R derangements, P (caption, donor) pairs, G clusters (distinct images).
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
"""Largest number of samples that is ever recommended; a larger number would be useless advice."""


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
        """The standard deviation per sample, `SE * sqrt(samples)`, with the effects of clusters and shared donors."""
        return None if self.se is None else self.se * math.sqrt(self.samples)

    def _quantile(self, level: float) -> float:
        return float(stdtrit(self.clusters - 1, level))  # not scipy.stats, which takes a second to import


def clusters_of(keys: Sequence[str]) -> IntArray:
    """Number the distinct keys (image hashes) 0..G-1, and return one cluster id per sample."""
    return np.unique(np.asarray(keys, dtype=np.str_), return_inverse=True)[1].astype(np.int64)


def weighted_mean(sums_S: FloatArray, tokens_S: IntArray) -> float:
    """Return the token-weighted mean: the sum of the values divided by the number of label tokens."""
    return float(sums_S.sum() / tokens_S.sum())


def clustered_variance(excess_S: FloatArray, tokens_S: IntArray, clusters_S: IntArray) -> float:
    """Return the variance of a ratio estimator, clustered by image.

        G/(G-1) * sum_g (sum_{i in g} e_i)^2 / (sum_i T_i)^2

    Args:
        excess_S: e_i = D_i - T_i * gap, in nats.
        tokens_S: T_i.
        clusters_S: cluster ids 0..G-1, with G at least 2.
    """
    sums_G = np.bincount(clusters_S, weights=excess_S)
    count = len(sums_G)
    return float(count / (count - 1) * (sums_G**2).sum() / tokens_S.sum() ** 2)


def dyadic_variance(excess_SR: FloatArray, donors_SR: IntArray, tokens_S: IntArray, clusters_S: IntArray) -> float:
    """Return the variance of the gap of `shuffled`, in which every image is both an own image and a donor.

    If all n samples have different images:

        A_i = sum_r e_ir + sum_r e_{pi_r^-1(i), r}
        Var = n/(n-1) * (sum_i A_i^2 - sum_ir e_ir^2) / (R * sum_i T_i)^2

    If samples share images, e is first summed within each pair (own cluster, donor cluster), and G replaces n. This is
    the dyadic cluster-robust form (Fafchamps and Gubert 2007; Aronow, Samii and Assenova 2015). The result can be
    negative if the effects that an image has as own image and as donor cancel out; for this reason, `estimate` never
    relies on this variance alone.

    Args:
        excess_SR: e_ir = D_ir - T_i * gap, in nats, with the gap over all R derangements.
        donors_SR: pi_r(i), the sample whose image replaces that of sample i.
        tokens_S: T_i.
        clusters_S: cluster ids 0..G-1, with G at least 2.
    """
    pairs = Pairs.of(excess_SR, tokens_S, clusters_S, donors_SR)
    return _dyadic(pairs, pairs.differences_P)


@dataclass(frozen=True)
class Pairs:
    """The differences as a list of P (caption, donor) pairs; unlike in a table [S, R], any pair may be missing."""

    differences_P: FloatArray
    """D of each pair, in nats."""
    tokens_P: IntArray
    """T, the number of label tokens of the caption."""
    own_P: IntArray
    """Cluster id of the caption's own image."""
    donor_P: IntArray
    """Cluster id of the image that replaced it."""

    @classmethod
    def of(cls, differences_SR: FloatArray, tokens_S: IntArray, clusters_S: IntArray, donors_SR: IntArray) -> Pairs:
        """Create the list of all pairs from tables [S, R]."""
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

        The two images of a pair always differ, so no pair is subtracted twice.
        """
        roles = np.concatenate([self.own_P, self.donor_P])
        differences_G = np.bincount(roles, weights=np.tile(self.differences_P, 2))
        tokens_G = np.bincount(roles, weights=np.tile(self.tokens_P, 2))
        left_G = self.tokens_P.sum() - tokens_G
        gaps_G: FloatArray = np.full(len(left_G), np.nan)
        np.divide(self.differences_P.sum() - differences_G, left_G, out=gaps_G, where=left_G > 0)
        return gaps_G

    def estimate(self) -> Estimate:
        """Estimate the gap as the function `estimate` does; in the result, `samples` is the number of pairs."""
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

    With donors, the larger of two variances is used: the dyadic variance, and the clustered variance of D_i averaged
    over R. The dyadic variance alone is too small if an image's effects as own image and as donor cancel out. The
    clustered variance alone is too small if one image both helps its own caption and misleads on other captions.

    Args:
        differences_SR: D_ir, the summed NLL minus that under `correct`, in nats; all finite. R is 1 without donors.
        tokens_S: T_i, each at least 1.
        clusters_S: cluster ids 0..G-1.
        donors_SR: the sample that is the donor in each difference; only for `shuffled`.
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
    """Return the share of (caption, donor) pairs whose caption is strictly likelier with the correct image."""
    return float((differences_SR > 0).mean())


def sample_size_factor(level: float = 0.99, power: float = 0.90) -> float:
    """Return C = (z_level + z_power)^2 for a one-sided test: 13.02 for 99%/90%, 8.56 for 95%/90%."""
    factor: float = (NormalDist().inv_cdf(level) + NormalDist().inv_cdf(power)) ** 2
    return factor


def needed_samples(sd: float, gap: float, margin: float, level: float = 0.99, power: float = 0.90) -> int | None:
    """Return the number of samples with which a one-sided bound separates `gap` from `margin` with probability `power`.

        n = C * (sd / (gap - margin))^2

    Args:
        sd: standard deviation per sample, in nats per token (`Estimate.sd`).
        gap: the true gap, assumed to equal the measured one.
        margin: the margin; if the gap is below it, n samples show that the gap is smaller.
        level: one-sided confidence level of the bound.
        power: probability that the bound separates the gap from the margin.

    Returns:
        n rounded up; None if the gap is so close to the margin that more than `MOST_SAMPLES` would be needed.
    """
    spread, distance = math.sqrt(sample_size_factor(level, power)) * sd, abs(gap - margin)
    if not spread < math.sqrt(MOST_SAMPLES) * distance:
        return None
    return math.ceil((spread / distance) ** 2)
