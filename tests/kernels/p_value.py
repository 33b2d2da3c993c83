"""Chances that a right sampler gives a statistic as large as the one seen, for a million draws."""

import math

import numpy as np


def chi_square_p_value(counts, chances):
    """Pearson's test of counts [n] against chances [n], sum 1; 0 where a token without a chance was drawn.

    Wilson and Hilferty's cube root: within a factor of two at 1e-7 for 5 degrees of freedom and more.
    """
    if counts[chances == 0].any():
        return 0.0
    expected = counts.sum() * chances[chances > 0]
    statistic = ((counts[chances > 0] - expected) ** 2 / expected).sum()
    degrees = len(expected) - 1
    spread = 2 / (9 * degrees)
    return math.erfc(((statistic / degrees) ** (1 / 3) - 1 + spread) / math.sqrt(2 * spread)) / 2


def kolmogorov_smirnov_p_value(numbers):
    """The test that numbers [n] float64 in [0, 1] are uniform; Kolmogorov's series, for large n."""
    ordered = np.sort(numbers)
    n = len(ordered)
    rank = np.arange(n)
    distance = max((ordered - rank / n).max(), ((rank + 1) / n - ordered).max()) * math.sqrt(n)
    if distance < 0.3:
        return 1.0  # the series converges slowly there; the chance differs from 1 by less than 1e-4
    return 2 * sum((-1) ** (j - 1) * math.exp(-2 * (j * distance) ** 2) for j in range(1, 40))
