"""The largest magnitude that an int8 activation stands for, from a histogram, by four methods.

minmax       the largest magnitude seen: nothing is clipped
percentile   so many percent of the values are not clipped
entropy      the clipped and rounded distribution loses least information (Kullback-Leibler; Migacz, GTC 2017)
mse          the mean squared error of clipping and rounding is least
"""

from __future__ import annotations

from math import ceil
from typing import Final, Literal, get_args

import numpy as np

from illume_calibration.histogram import NUM_BINS, Histogram

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)

LEVELS: Final = 127  # of each sign: symmetric int8
NUM_CANDIDATES: Final = 128  # thresholds that mse tries
ENTROPY_STRIDE: Final = 16  # bins between two thresholds that entropy tries
SMALLEST_RANGE: Final = 2.0**-24  # of a tensor that is always zero: its scale must be a normal positive number


def least_values(method: Method, percentile: float) -> int:
    """How many values a method needs before its answer has sense."""
    if method == "percentile":
        return ceil(100.0 / (100.0 - percentile)) if percentile < 100.0 else 1
    return {"minmax": 1, "entropy": NUM_BINS, "mse": 1024}[method]


def range_from_histogram(histogram: Histogram, method: Method, percentile: float) -> float:
    """The magnitude that becomes 127, a positive number. Raises ValueError for too few values."""
    least = least_values(method, percentile)
    if histogram.num_values < least:
        raise ValueError(f"has seen {histogram.num_values} values, {method} needs at least {least}")
    if histogram.largest == 0.0:
        return SMALLEST_RANGE
    if method == "minmax":
        found = histogram.largest
    elif method == "percentile":
        found = _percentile(histogram, percentile)
    else:
        found = _least_squares(histogram) if method == "mse" else _least_divergence(histogram)
    return max(min(found, histogram.largest), SMALLEST_RANGE)


def _percentile(histogram: Histogram, percentile: float) -> float:
    cumulative = np.cumsum(histogram.counts)
    wanted = percentile / 100.0 * cumulative[-1]
    return float(histogram.edges[int(np.searchsorted(cumulative, wanted))])


def _least_squares(histogram: Histogram) -> float:
    used = np.flatnonzero(histogram.counts)
    counts, values = histogram.counts[used].astype(np.float64), histogram.centers[used]
    candidates = np.linspace(1.0 / NUM_CANDIDATES, 1.0, NUM_CANDIDATES) * histogram.largest
    errors = []
    for candidate in candidates:
        scale = candidate / LEVELS
        rounded = np.minimum(np.rint(values / scale), LEVELS) * scale
        errors.append(float(counts @ np.square(values - rounded)))
    return float(candidates[int(np.argmin(errors))])


def _least_divergence(histogram: Histogram) -> float:
    """The threshold whose 128 levels tell least falsely how the values are distributed.

    The reference is the distribution up to the threshold with the clipped values in its last bin; what is compared
    with it is the same without them, at the resolution of int8, each level spread evenly over its bins that are used.
    """
    last = int(np.flatnonzero(histogram.counts)[-1]) + 1
    if last <= LEVELS + 1:
        return histogram.largest
    best, found = np.inf, last
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]  # exact zeros say nothing about the range; they would hide everything else
    for end in range(LEVELS + 1, last + ENTROPY_STRIDE, ENTROPY_STRIDE):
        end = min(end, last)
        inside = counts[:end]
        reference = inside.copy()
        reference[-1] += counts[end:].sum()
        used = reference > 0
        level = np.arange(end) * (LEVELS + 1) // end
        sums = np.bincount(level, inside, LEVELS + 1)
        width = np.bincount(level, used, LEVELS + 1)
        approximation = np.where(used, (sums / np.maximum(width, 1))[level], 0.0)
        divergence = _divergence(reference[used], approximation[used])
        if divergence < best:
            best, found = divergence, end
    return float(histogram.edges[found - 1])


def _divergence(reference: np.ndarray, approximation: np.ndarray) -> float:
    total, other = reference.sum(), approximation.sum()
    if other == 0.0:
        return float("inf")
    p, q = reference / total, np.maximum(approximation / other, 1e-12)
    return float(p @ np.log(p / q))
