"""Sampling without filters in one pass: the largest score + Gumbel noise (Gumbel, 1954), in separately rounded float32.

Its draws are a stream of their own: they have the same distribution as those of `oracle.sample` but are not the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from illume_kernels.params import SampleParams
from illume_kernels.philox import STREAM_GUMBEL, philox

_SQRT_2 = np.float32(1.41421354)
_LN_2 = np.float32(0.69314718)
_ATANH = tuple(np.float32(1 / d) for d in (9, 7, 5, 3, 1))
_LOG1P = tuple(np.float32(c) for c in (1 / 7, 1 / 6, 1 / 5, 1 / 4, 1 / 3, 0.5, 1))
_SERIES_BELOW = np.float32(0.0625)
_SCALE = np.float32(2.0**-63)
_TINY = np.float32(1e-30)
_LOW = np.uint64(0xFFFFFFFF)


def sample_gumbel(logits: NDArray[np.float32], params: SampleParams) -> NDArray[np.int64]:
    """Tokens [B] of logits [B,n] float32, -1 where none is legal (NaN, -inf); top_k, top_p and min_p are not looked at.

    Temperature 0 takes the first of the largest. Where a logit is +inf, the first such token.
    """
    divisor = np.where(params.temperature > 0, params.temperature, np.float32(1))
    with np.errstate(over="ignore"):
        x = logits / divisor[:, None] + np.float32(0)
    x[np.isnan(x)] = -np.inf
    noisy = (params.temperature > 0)[:, None] & np.isfinite(x)
    noise = gumbel_noise(_numbers(params, x.shape[1]))
    x = np.where(noisy, x + noise + np.float32(0), x)
    tokens: NDArray[np.int64] = x.argmax(axis=1)
    tokens[np.isneginf(x.max(axis=1))] = -1
    return tokens


def gumbel_noise(numbers: NDArray[np.uint64]) -> NDArray[np.float32]:
    """-ln(-ln(1 - t)) float32, t = (number >> 1 | 1) / 2^63: finest where t is small, where the largest noise is."""
    one = np.uint64(1)
    t = (numbers >> one | one).astype(np.float32) * _SCALE
    p = t * _LOG1P[0]
    for coefficient in _LOG1P[1:]:
        p = (p + coefficient) * t
    rest = (~numbers >> one | one).astype(np.float32) * _SCALE
    e = np.where(t < _SERIES_BELOW, p, -_natural_log(rest))
    noise: NDArray[np.float32] = -_natural_log(np.maximum(e, _TINY))
    return noise


def _natural_log(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """ln of normal x > 0, to 2 units in the last place: 2 atanh((m - 1) / (m + 1)) of the mantissa m."""
    bits = x.view(np.int32)
    exponent = (bits >> 23) - 127
    m = (bits & 0x007FFFFF | 0x3F800000).view(np.float32)
    is_high = m > _SQRT_2
    m[is_high] *= np.float32(0.5)
    exponent = exponent + is_high
    s: NDArray[np.float32] = (m - np.float32(1)) / (m + np.float32(1))
    s2 = s * s
    series: NDArray[np.float32] = s2 * _ATANH[0]
    for coefficient in _ATANH[1:-1]:
        series = (series + coefficient) * s2
    series = (series + _ATANH[-1]) * (s * np.float32(2))
    logarithm: NDArray[np.float32] = exponent.astype(np.float32) * _LN_2 + series
    return logarithm


def _numbers(params: SampleParams, num_tokens: int) -> NDArray[np.uint64]:
    """One number [B,n] for each token: two from each block of the counter (request, step, stream, token / 2)."""
    blocks = np.arange((num_tokens + 1) // 2, dtype=np.uint64)[None]
    zero = np.zeros((len(params), blocks.shape[1]), np.uint64)
    counter = np.stack(
        (
            zero + params.request[:, None].astype(np.uint64),
            zero + params.step[:, None].astype(np.uint64),
            zero + np.uint64(STREAM_GUMBEL),
            zero + blocks,
        )
    )
    seed = params.seed[:, None]
    words = philox(counter, np.stack((zero + (seed & _LOW), zero + (seed >> np.uint64(32)))))
    high = np.uint64(32)
    pairs = np.stack((words[1] << high | words[0], words[3] << high | words[2]), axis=-1)
    return pairs.reshape(len(params), -1)[:, :num_tokens]
