"""Weights rounded one input at a time, the error of each row made good by the rows after it.

GPTQ (Frantar, Ashkboos, Hoefler and Alistarh, 2022): to keep x W for the inputs x that calibration saw, the error e of
row i is spread over the rows j > i by e [H^-1]_ij / [H^-1]_ii, H the second moments of the inputs that are left. The
rows of the Cholesky factor of H^-1 hold those quotients for every i at once. Rows are taken in order, so that groups
stay whole, and in blocks, so that most of the work is a product of matrices.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_calibration.weights import (
    INT4_LEVELS,
    INT8_LEVELS,
    QuantizedWeight,
    check_groups,
    int4_scales,
    int8_scales,
)

DAMPING: Final = 0.01  # of the mean of the diagonal of H, added to it, as in the paper
BLOCK: Final = 128  # rows; a multiple of every group size


def int8_by_error_feedback(weight: NDArray[np.float32], inputs: NDArray[np.float32]) -> QuantizedWeight:
    """Int8 of [K, N] with a scale for each column, for inputs [R, K]."""
    scales = int8_scales(weight, 1)
    integers, _ = _rounded(weight, inputs, INT8_LEVELS, 0, scales)
    return QuantizedWeight(integers, scales, 1, 8, 0)


def int4_by_error_feedback(
    weight: NDArray[np.float32], inputs: NDArray[np.float32], group_size: int
) -> QuantizedWeight:
    """Int4 of [K, N] with a scale for each `group_size` rows of a column, for inputs [R, K].

    The scales of a group are found when its turn comes. Raises ValueError if K is no multiple of the group size.
    """
    check_groups(weight.shape[0], group_size)
    integers, scales = _rounded(weight, inputs, INT4_LEVELS, group_size, np.zeros(0, np.float32))
    return QuantizedWeight(integers, scales, 0, 4, group_size)


def damped_second_moments(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """H [K, K] of inputs [R, K], positive definite; an input that is always zero has nothing to do with the others."""
    rows = inputs.astype(np.float64)
    moments: NDArray[np.float64] = rows.T @ rows / len(rows)
    diagonal = np.diag(moments)
    damping = DAMPING * float(diagonal.mean()) or 1.0
    moments[np.diag_indices_from(moments)] += np.where(diagonal == 0.0, 1.0, damping)
    return moments


def _rounded(
    weight: NDArray[np.float32],
    inputs: NDArray[np.float32],
    levels: int,
    group_size: int,
    scales: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers [K, N], and scales [K / group_size, N] or those that were given [N]."""
    K, N = weight.shape
    factor = np.linalg.cholesky(np.linalg.inv(damped_second_moments(inputs))).T  # upper
    left = weight.astype(np.float64)
    integers = np.zeros((K, N), np.int8)
    of_groups = np.zeros((K // group_size, N), np.float32) if group_size else scales
    for start in range(0, K, BLOCK):
        end = min(start + BLOCK, K)
        errors = np.zeros((end - start, N))
        for i in range(start, end):
            if group_size and i % group_size == 0:
                group = left[None, i : i + group_size].astype(np.float32)
                scales = of_groups[i // group_size] = int4_scales(group)[0, 0]
            integers[i] = np.clip(np.rint(left[i] / scales), -levels, levels)
            errors[i - start] = (left[i] - integers[i] * scales.astype(np.float64)) / factor[i, i]
            left[i + 1 : end] -= np.outer(factor[i, i + 1 : end], errors[i - start])
        left[end:] -= factor[start:end, end:].T @ errors
    return integers, of_groups
