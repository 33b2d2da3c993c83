"""Bicubic resizing as a matrix per axis: resized = rows @ picture @ columns.T.

`antialiased` is the filter that Pillow has too (Keys, 1981, a = -1/2, widened when it shrinks), `interpolated` is
plain bicubic with a = -3/4, clamped at the borders. Both take pixel centres as the grid. The filters are computed in
float32, as while the models were trained: in float64 their weights would differ by up to 3e-5.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=64)
def antialiased(size: int, new_size: int) -> NDArray[np.float32]:
    """Matrix [new_size, size] float32 whose rows have the sum 1."""
    f = np.float32
    scale = f(size) / f(new_size)
    width = max(scale, f(1))
    matrix: NDArray[np.float32] = np.zeros((new_size, size), f)
    for i in range(new_size):
        center = scale * (f(i) + f(0.5))
        first = max(int(center - f(2) * width + f(0.5)), 0)
        last = min(int(center + f(2) * width + f(0.5)), size)
        places = np.arange(first, last).astype(f)
        weights = _keys((places - center + f(0.5)) * (f(1) / width), f(-0.5))
        matrix[i, first:last] = weights / np.add.accumulate(weights)[-1]  # summed one by one
    return _read_only(matrix)


@lru_cache(maxsize=64)
def interpolated(size: int, new_size: int) -> NDArray[np.float32]:
    """Matrix [new_size, size] float32 whose rows have the sum 1."""
    f = np.float32
    matrix = np.zeros((new_size, size), f)
    for i in range(new_size):
        center = f(size) / f(new_size) * (f(i) + f(0.5)) - f(0.5)
        first = int(np.floor(center)) - 1
        places = np.arange(first, first + 4)
        np.add.at(matrix[i], np.clip(places, 0, size - 1), _keys(places.astype(f) - center, f(-0.75)))
    return _read_only(matrix)


def resized(array: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """[..., Y', X'] of [..., Y, X] by matrices [Y', Y] and [X', X]."""
    new: NDArray[np.float32] = np.matmul(np.matmul(rows, array), columns.T)
    return new


def _keys(x: NDArray[np.float32], a: np.float32) -> NDArray[np.float32]:
    """Cubic convolution kernel of Keys at distances x."""
    f = np.float32
    x = np.abs(x)
    near = ((a + f(2)) * x - (a + f(3))) * x * x + f(1)
    far = (((x - f(5)) * x + f(8)) * x - f(4)) * a
    weights: NDArray[np.float32] = np.where(x < f(1), near, np.where(x < f(2), far, f(0)))
    return weights


def _read_only(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    matrix.flags.writeable = False
    return matrix
