"""Means of a bounded figure per caption (a share or a reciprocal rank), with intervals that do not assume normality.

The standing of a figure says whether it exceeds a margin (`verdict.standing`).

Dimension suffixes: S captions, G clusters (distinct images).
"""

from __future__ import annotations

import numpy as np

from eyechart.results import Estimated
from eyechart.seam import IntArray
from eyechart.verdict.standing import LEVEL, stand, stand_gap
from eyechart.verdict.statistics import Estimate, FloatArray

_RESAMPLES = 2000
_LEVEL = 0.95
_BOTH_WAYS = 2 * LEVEL - 1
"""Confidence of the two-sided interval whose ends are one-sided bounds at `LEVEL`."""
_DRAWN_AT_ONCE = 100_000
"""Number of images that the bootstrap draws at a time. With their values, they need 2.4 MB, however many images there
are in total."""


def as_result(found: Estimate, margin: float = 0.0) -> Estimated:
    """Convert a gap to the format of the results, with its 95% interval and its standing relative to a margin."""
    held = stand_gap(found, margin)
    return Estimated(
        value=found.gap,
        se=found.se,
        ci95=found.interval(_LEVEL),
        margin=margin,
        lower99=held.lower,
        upper99=held.upper,
        standing=held.standing,
    )


def bootstrap_mean(
    values_S: FloatArray,
    clusters_S: IntArray,
    generator: np.random.Generator,
    margin: float | None = None,
    share: bool = True,
) -> Estimated:
    """Return the mean over captions with a percentile bootstrap interval; all captions of an image are drawn together.

    If every caption has the same value, the bootstrap finds no spread. If this value is 0 or 1, the exact binomial
    interval (Clopper and Pearson 1934) over the images is used instead, so that 20 hits out of 20 are not reported as
    certain. If it is another value, such as 1/k because all k images tie, the interval has a width of 0.

    Args:
        values_S: one figure per caption.
        clusters_S: cluster id of each caption's image.
        generator: draws the resamples.
        margin: the value with which the mean is compared, such as that of random guessing; if None, no standing is
            decided.
        share: whether 0 and 1 mean a miss and a hit; if not, the binomial interval is not used.
    """
    from scipy import stats  # imported here because the import takes a second and only matching needs it

    value = float(values_S.mean())
    ids, place_S = np.unique(clusters_S, return_inverse=True)
    if len(ids) < 2:
        return _held(Estimated(value=value), None, margin)
    if np.ptp(values_S) == 0:
        value = float(values_S[0])  # exact: a computed mean may differ from it in the last digit
        if not share or value not in (0.0, 1.0):
            return _held(Estimated(value=value, se=0.0, ci95=(value, value)), (value, value), margin)
        exact = stats.binomtest(round(value * len(ids)), len(ids))
        low, high = exact.proportion_ci(_LEVEL)
        ends = exact.proportion_ci(_BOTH_WAYS)
        found = Estimated(value=value, ci95=(float(low), float(high)))
        return _held(found, (float(ends.low), float(ends.high)), margin)
    sums_G, counts_G = np.bincount(place_S, values_S), np.bincount(place_S).astype(np.float64)
    drawn = stats.bootstrap(
        (sums_G, counts_G),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=max(1, _DRAWN_AT_ONCE // len(ids)),
        confidence_level=_LEVEL,
        method="percentile",
        rng=generator,
    )
    low, high = drawn.confidence_interval
    lower, upper = np.percentile(drawn.bootstrap_distribution, [100 * (1 - LEVEL), 100 * LEVEL])
    found = Estimated(value=value, se=float(drawn.standard_error), ci95=(float(low), float(high)))
    return _held(found, (float(lower), float(upper)), margin)


def _held(found: Estimated, bounds: tuple[float, float] | None, margin: float | None) -> Estimated:
    """Return the estimate with its 99% bounds and its standing against the margin."""
    lower, upper = bounds or (None, None)
    standing = None if margin is None else stand(lower, upper, margin)
    return found.model_copy(update={"lower99": lower, "upper99": upper, "margin": margin, "standing": standing})
