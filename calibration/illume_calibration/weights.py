"""Weights as integers with scales, and what they stand for: symmetric, zero is zero.

int8    one scale per output channel; the largest magnitude of a channel becomes 127
int4    one scale per group of rows of an output channel; of several scales the one with the least squared error
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

INT8_LEVELS: Final = 127
INT4_LEVELS: Final = 7
SHRINKS: Final = np.linspace(0.7, 1.0, 13)  # of the largest magnitude of an int4 group
SMALLEST_SCALE: Final = np.float32(2.0**-60)  # of a channel of zeros


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """Integers in the shape of the weight, and scales.

    Per channel (`group_size` 0): scales [N] along `axis`. In groups: the weight is [K, N], scales are
    [K / group_size, N].
    """

    integers: NDArray[np.int8]
    scales: NDArray[np.float32]
    axis: int
    bits: int
    group_size: int

    def dequantized(self) -> NDArray[np.float32]:
        """The float32 weight that the integers stand for."""
        if self.group_size:
            scales = np.repeat(self.scales, self.group_size, axis=0)
        else:
            scales = _along(self.scales, self.integers.ndim, self.axis)
        return self.integers.astype(np.float32) * scales


def int8_per_channel(weight: NDArray[np.float32], axis: int) -> QuantizedWeight:
    """Int8 with a scale for each index of `axis`."""
    scales = int8_scales(weight, axis)
    rounded = np.rint(weight / _along(scales, weight.ndim, axis))
    return QuantizedWeight(np.clip(rounded, -127, 127).astype(np.int8), scales, axis, 8, 0)


def int8_scales(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """A scale for each index of `axis`, by its largest magnitude."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.maximum(np.abs(weight).max(axis=others) / np.float32(INT8_LEVELS), SMALLEST_SCALE)
    return np.asarray(scales, np.float32)


def int4_in_groups(weight: NDArray[np.float32], group_size: int) -> QuantizedWeight:
    """Int4 of [K, N] with a scale for each `group_size` rows of a column. Raises ValueError if K is no multiple."""
    K, N = weight.shape
    check_groups(K, group_size)
    groups = weight.reshape(K // group_size, group_size, N)
    scales = int4_scales(groups)
    integers = np.clip(np.rint(groups / scales), -INT4_LEVELS, INT4_LEVELS).astype(np.int8).reshape(K, N)
    return QuantizedWeight(integers, scales[:, 0], 0, 4, group_size)


def check_groups(num_rows: int, group_size: int) -> None:
    """Raises ValueError if the rows are no whole number of groups."""
    if num_rows % group_size:
        raise ValueError(f"has {num_rows} rows, no multiple of the group size {group_size}")


def int4_scales(groups: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales [G, 1, N] of groups [G, group_size, N]: those of SHRINKS with the least squared error."""
    largest = np.maximum(np.abs(groups).max(axis=1, keepdims=True) / np.float32(INT4_LEVELS), SMALLEST_SCALE)
    best = np.full(largest.shape, np.inf, np.float32)
    scales: NDArray[np.float32] = largest.astype(np.float32)
    for shrink in SHRINKS:
        candidate = (largest * shrink).astype(np.float32)
        rounded = np.clip(np.rint(groups / candidate), -INT4_LEVELS, INT4_LEVELS) * candidate
        error = np.square(groups - rounded).sum(axis=1, keepdims=True)
        scales = np.where(error < best, candidate, scales)
        best = np.minimum(error, best)
    return scales


def _along(scales: NDArray[np.float32], ndim: int, axis: int) -> NDArray[np.float32]:
    shape = [1] * ndim
    shape[axis] = -1
    return scales.reshape(shape)
