"""Scales for the channels of what goes into products, so that rounding hurts less: searched on what calibration saw.

For the products x W that read one tensor, x is divided and W multiplied by s, channel by channel:

smoothquant  s_c = max|x_c|^alpha / max|W_c|^(1 - alpha): moves the large channels of x into W (Xiao et al., 2022)
awq          s_c = mean|x_c|^alpha: gives the rows of W that matter finer steps (Lin et al., 2023)

alpha is the one of ALPHAS with the least squared error of the products of sampled rows, rounded as the recipe says. A
tensor whose products are best without scales is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_calibration.ranges import LEVELS
from illume_calibration.statistics import TensorStatistics
from illume_runtime.quantization import Scaling

ALPHAS: Final = tuple(i / 10 for i in range(11))
SEARCH_ROWS: Final = 256
SMALLEST: Final = 1e-4  # of a channel's magnitude, as a share of the largest one's

Rounded = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # a weight [K, N] -> what its integers stand for
Range = Callable[[NDArray[np.float32]], float]  # divisors [K] -> the largest magnitude of int8 inputs


def divisors_of(
    scaling: Scaling, alpha: float, statistics: TensorStatistics, weights: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """s [K] of a tensor and the weights [K, N] that it meets; their geometric mean is about 1."""
    assert statistics.channels is not None
    if scaling == "smoothquant":
        largest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
        divisors = _positive(statistics.channels) ** alpha / _positive(largest) ** (1.0 - alpha)
    else:
        divisors = _positive(np.abs(statistics.sample.rows).mean(axis=0)) ** alpha
    found: NDArray[np.float32] = (divisors / np.sqrt(divisors.max() * divisors.min())).astype(np.float32)
    return found


def best_divisors(
    scaling: Scaling,
    statistics: TensorStatistics,
    weights: Mapping[str, NDArray[np.float32]],
    rounded: Rounded,
    int8_inputs: Collection[str],
    range_of: Range,
) -> NDArray[np.float32] | None:
    """s [K], or None where no alpha is better than no scales. `int8_inputs` names the weights that have them."""
    rows = statistics.sample.rows[:SEARCH_ROWS]
    candidates = [np.ones(rows.shape[1], np.float32)]
    candidates += [divisors_of(scaling, alpha, statistics, list(weights.values())) for alpha in ALPHAS]
    errors = [_error(rows, weights, divisors, rounded, int8_inputs, range_of) for divisors in candidates]
    best = int(np.argmin(errors))
    return candidates[best] if errors[best] < errors[0] else None


def _error(
    rows: NDArray[np.float32],
    weights: Mapping[str, NDArray[np.float32]],
    divisors: NDArray[np.float32],
    rounded: Rounded,
    int8_inputs: Collection[str],
    range_of: Range,
) -> float:
    """Sum over the products of their squared error, each as a share of the product's power."""
    total = 0.0
    scaled = rows / divisors
    int8 = scaled
    if int8_inputs:
        scale = np.float32(range_of(divisors) / LEVELS)
        int8 = np.clip(np.rint(scaled / scale), -LEVELS - 1, LEVELS) * scale
    for name, weight in weights.items():
        inputs = int8 if name in int8_inputs else scaled
        expected = rows @ weight
        power = float(np.square(expected, dtype=np.float64).sum())
        noise = np.square(inputs @ rounded(weight * divisors[:, None]) - expected, dtype=np.float64).sum()
        total += float(noise) / max(power, 1e-300)
    return total


def _positive(magnitudes: NDArray[np.float32]) -> NDArray[np.float64]:
    """No channel below a small share of the largest: one that is always zero must not decide anything."""
    wide = magnitudes.astype(np.float64)
    return np.maximum(wide, SMALLEST * (wide.max() or 1.0))
