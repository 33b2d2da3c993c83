"""Sampling of tokens, defined in integers: what every other implementation must reproduce bit for bit.

A logit becomes an integer weight, trunc(2^40 exp(x - max)), by separately rounded float32 operations; filters and the
draw compare and add integers only, so no order of summation can change a token. Filters follow the usual order:
temperature, top-k (ties with the k-th stay), top-p (a token stays while the mass before it is at most p), min-p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from illume_kernels.philox import STREAM_TOKENS, uniform_u64

ONE: Final = 1 << 40  # weight of the largest logit
NOTHING: Final = -1  # token of a row whose support is empty

_LOG2_E: Final = np.float32(1.4426950408889634)
# Least-squares fit of (2^f - 1) / f on [0, 1) at Chebyshev points: relative error of 2^f below 2e-7.
_POWERS: Final = tuple(np.float32(c) for c in (
    0.6931471806, 0.2402265070, 0.0555041087, 0.0096181291, 0.0013333558, 0.0001546876
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class SampleParams:
    """One entry per row. `temperature` 0 is greedy, `top_k` 0, `top_p` 1 and `min_p` 0 are off."""

    temperature: NDArray[np.float32]
    top_k: NDArray[np.int64]
    top_p: NDArray[np.float32]
    min_p: NDArray[np.float32]
    seed: NDArray[np.uint64]
    request: NDArray[np.uint32]
    step: NDArray[np.uint32]

    @classmethod
    def broadcast(
        cls,
        batch: int,
        *,
        temperature: ArrayLike = 1.0,
        top_k: ArrayLike = 0,
        top_p: ArrayLike = 1.0,
        min_p: ArrayLike = 0.0,
        seed: ArrayLike = 0,
        request: ArrayLike = 0,
        step: ArrayLike = 0,
    ) -> SampleParams:
        """Parameters of `batch` rows, each from a number or from one number per row."""
        return cls(
            np.broadcast_to(np.asarray(temperature, np.float32), batch),
            np.broadcast_to(np.asarray(top_k, np.int64), batch),
            np.broadcast_to(np.asarray(top_p, np.float32), batch),
            np.broadcast_to(np.asarray(min_p, np.float32), batch),
            np.broadcast_to(np.asarray(seed, np.uint64), batch),
            np.broadcast_to(np.asarray(request, np.uint32), batch),
            np.broadcast_to(np.asarray(step, np.uint32), batch),
        )


def sample(
    logits: NDArray[np.float32],
    params: SampleParams,
    *,
    forced: NDArray[np.int64] | None = None,
    banned: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Tokens [B] int64 drawn from logits [B, n]; -1 where nothing may be drawn.

    `forced` [B] passes through where it is not negative. `banned` are indices that no row may draw. NaN is never
    drawn. Greedy rows take the lowest index of the largest logits.
    """
    values = _legal(logits, banned)
    tokens = np.where(np.isneginf(values.max(axis=1)), NOTHING, values.argmax(axis=1))
    drawn = params.temperature > 0
    if drawn.any():
        rows = slice(None) if drawn.all() else np.flatnonzero(drawn)
        weights = _filtered(values[rows], params, rows)
        tokens[rows] = _draw(weights, params, rows)
    return tokens if forced is None else np.where(forced >= 0, forced, tokens)


def probabilities(
    logits: NDArray[np.float32], params: SampleParams, *, banned: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Exact probabilities [B, n] with which `sample` draws each token; zeros in a row without support."""
    values = _legal(logits, banned)
    weights = np.zeros(values.shape, np.uint64)
    greedy = params.temperature == 0
    best = np.flatnonzero(greedy & ~np.isneginf(values.max(axis=1)))
    weights[best, values[best].argmax(axis=1)] = ONE
    rows = np.flatnonzero(~greedy)
    weights[rows] = _filtered(values[rows], params, rows)
    totals = weights.sum(axis=1, keepdims=True)
    return weights / np.maximum(totals, 1).astype(np.float64)


def repetition_penalty(
    logits: NDArray[np.float32], seen: NDArray[np.int64], penalty: float
) -> NDArray[np.float32]:
    """Logits [n] whose entries `seen` are divided (if positive) or multiplied (if negative) by `penalty`."""
    result = logits.copy()
    chosen = result[seen]
    result[seen] = np.where(chosen > 0, chosen / np.float32(penalty), chosen * np.float32(penalty))
    return result


def weights_of(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Integer weights of values [B, n] (scaled by the temperature): trunc(2^40 exp(value - max))."""
    top = values.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        distance = np.where(values == top, np.float32(0), values - top)
    exponent = np.maximum(distance, np.float32(-64)) * _LOG2_E
    whole = np.floor(exponent)
    f = exponent - whole
    power = np.full_like(f, _POWERS[-1])
    for c in _POWERS[-2::-1]:
        power = power * f + c
    power = np.minimum(power * f + np.float32(1), np.float32(2) - np.float32(2.0**-23))
    mantissa = (power * np.float32(2.0**23)).astype(np.uint64) << np.uint64(17)
    weights: NDArray[np.uint64] = mantissa >> np.minimum(-whole, 63).astype(np.uint64)
    weights[np.broadcast_to(np.isneginf(top), weights.shape) | np.isneginf(values)] = 0
    return weights


def _legal(logits: NDArray[np.float32], banned: ArrayLike | None) -> NDArray[np.float32]:
    values = np.asarray(logits, np.float32) + np.float32(0)  # a copy; -0 becomes +0
    values[np.isnan(values)] = -np.inf
    if banned is not None:
        values[:, np.asarray(banned, np.int64)] = -np.inf
    return values


def _filtered(values: NDArray[np.float32], params: SampleParams, rows: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
    scaled = values / params.temperature[rows][:, None]
    weights = weights_of(scaled)
    top_k, top_p, min_p = params.top_k[rows], params.top_p[rows], params.min_p[rows]
    for k in np.unique(top_k):
        if 0 < k < scaled.shape[1]:
            these = np.flatnonzero(top_k == k)
            kth = np.partition(scaled[these], -k, axis=1)[:, -k]
            weights[these] = np.where(scaled[these] >= kth[:, None], weights[these], 0)
    nucleus = np.flatnonzero(top_p < 1)
    if nucleus.size:
        weights[nucleus] = _nucleus(weights[nucleus], top_p[nucleus])
    if (min_p > 0).any():
        least = np.ceil(min_p.astype(np.float64) * ONE).astype(np.uint64)
        weights[weights < least[:, None]] = 0
    return weights


def _nucleus(weights: NDArray[np.uint64], top_p: NDArray[np.float32]) -> NDArray[np.uint64]:
    order = np.argsort(~weights, axis=1, kind="stable")  # heaviest first, equals by index
    mass = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    before = np.concatenate((np.zeros_like(mass[:, :1]), mass[:, :-1]), axis=1)
    share = (top_p.astype(np.float64) * 2.0**32).astype(np.uint64)  # fixed point; total < 2^31 * 2^32
    total = mass[:, -1]
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    limit = (total >> half) * share + (((total & low) * share) >> half)
    kept = np.zeros(weights.shape, bool)
    np.put_along_axis(kept, order, before <= limit[:, None], axis=1)
    return np.where(kept, weights, 0).astype(np.uint64)


def _draw(weights: NDArray[np.uint64], params: SampleParams, rows: NDArray[np.int64] | slice) -> NDArray[np.int64]:
    prefix = np.cumsum(weights, axis=1)
    random = uniform_u64(params.seed[rows], params.request[rows], params.step[rows], STREAM_TOKENS)
    tokens = np.empty(len(prefix), np.int64)
    for row, (sums, word) in enumerate(zip(prefix, random.tolist(), strict=True)):
        total = int(sums[-1])
        point = np.uint64(total * word >> 64)
        tokens[row] = np.searchsorted(sums, point, side="right") if total else NOTHING
    return tokens
