"""The definition of sampling: temperature, top-k, top-p, min-p, then one draw by the inverse CDF, all in integers.

    logits    [B,n]  float32   NaN: an illegal token, like -inf
    params    [B]              SampleParams
    forced    [B]    int64     optional; >= 0 is passed through, its logits are not looked at
    banned    [M]    int64     optional; tokens illegal in every row
    tokens    [B]    int64     -1 where no token is legal

Scores are x = logits / temperature in float32. They are only compared, and become weights trunc(2^40 exp(x - max))
that are only added, so a choice depends on neither the order of a sum nor the row of the batch nor the batch size. A
token more than 27.7 below the largest weighs 0. The draw is the first token whose prefix sum exceeds mulhi64(sum, u),
u from Philox(seed; request, step).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from illume_kernels.fixed_point import MAX_TOKENS, ONE, ceil_share, mulhi64, weights_from_scores
from illume_kernels.params import SampleParams
from illume_kernels.penalty import repetition_penalty
from illume_kernels.philox import STREAM_TOKENS, uniform_u64

__all__ = ["SampleParams", "draw", "greedy", "probabilities", "repetition_penalty", "sample", "support"]

_NO_TOKEN = -1
_ILLEGAL = np.float32(-np.inf)
_ZERO = np.float32(0)
_SORTED_WHOLE = 8192
"""Up to this many tokens a sort of the values is as quick as a partition, which is slow where many are equal."""
_FIRST_CANDIDATES = 2048
"""Top-p without top-k looks at this many of the largest scores first, then at eight times as many."""


def sample(
    logits: NDArray[np.float32],
    params: SampleParams,
    *,
    forced: NDArray[np.int64] | None = None,
    banned: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Tokens [B]. ValueError where the shapes do not agree."""
    if forced is not None and len(forced) == len(params) and (forced >= 0).all():
        return forced.astype(np.int64)
    is_greedy = params.temperature == 0
    x, top = _scores(logits, params, banned)
    num_greedy = np.count_nonzero(is_greedy)
    if num_greedy == len(params):
        tokens = _first_of_largest(x, top)
    else:
        tokens = draw(_support(x, top, params), params)
        if num_greedy:
            tokens = np.where(is_greedy, _first_of_largest(x, top), tokens)
    if forced is None:
        return tokens
    if forced.shape != tokens.shape:
        raise ValueError(
            f"sample: forced has shape {forced.shape}, expected {tokens.shape}; use -1 where a row is free"
        )
    return np.where(forced >= 0, forced, tokens).astype(np.int64)


def draw(weights: NDArray[np.uint64], params: SampleParams) -> NDArray[np.int64]:
    """Tokens [B] drawn with the probabilities W_i / S of weights [B,n]; -1 where a row weighs nothing."""
    prefix = weights.cumsum(axis=1)
    total = prefix[:, -1]
    r = mulhi64(total, uniform_u64(params.seed, params.request, params.step, STREAM_TOKENS))
    tokens: NDArray[np.int64] = (prefix > r[:, None]).argmax(axis=1)
    if np.count_nonzero(total) < len(total):
        tokens[total == 0] = _NO_TOKEN
    return tokens


def support(
    logits: NDArray[np.float32], params: SampleParams, *, banned: ArrayLike | None = None
) -> NDArray[np.uint64]:
    """The weights [B,n] that `sample` draws from, 0 where a token has no chance; the temperature of each is above 0."""
    return _support(*_scores(logits, params, banned), params)


def greedy(logits: NDArray[np.float32], *, banned: ArrayLike | None = None) -> NDArray[np.int64]:
    """The largest logit of each row, the lowest index among equals; -1 where no token is legal."""
    return sample(logits, SampleParams.broadcast(len(logits), temperature=0.0), banned=banned)


def probabilities(
    logits: NDArray[np.float32], params: SampleParams, *, banned: ArrayLike | None = None
) -> NDArray[np.float64]:
    """The exact probability [B,n] of each token under `sample`: W_i / S; a row without a legal token is all 0."""
    x, top = _scores(logits, params, banned)
    weights = _support(x, top, params)
    total = np.maximum(weights.sum(axis=1), np.uint64(1))
    chances: NDArray[np.float64] = weights.astype(np.float64) / total.astype(np.float64)[:, None]
    for row in np.flatnonzero(params.temperature == 0):
        chances[row] = 0.0
        if top[row] > _ILLEGAL:
            chances[row, x[row].argmax()] = 1.0
    return chances


def _scores(
    logits: NDArray[np.float32], params: SampleParams, banned: ArrayLike | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x = logits / temperature [B,n] (logits where it is 0) with -inf at illegal tokens, and each row's largest."""
    if logits.ndim != 2 or len(logits) != len(params) or not 0 < logits.shape[1] <= MAX_TOKENS:
        raise ValueError(
            f"sample: logits have shape {logits.shape}, expected [{len(params)}, n] with 0 < n <= {MAX_TOKENS}; "
            "give one row of logits for each row of params"
        )
    divisor: NDArray[np.float32] = np.where(params.temperature > 0, params.temperature, np.float32(1))
    with np.errstate(over="ignore"):
        x: NDArray[np.float32] = logits.astype(np.float32, copy=False) / divisor[:, None]
    x += _ZERO  # -0 becomes +0: the two are one value
    if banned is not None:
        x[:, np.asarray(banned, dtype=np.int64)] = _ILLEGAL
    top: NDArray[np.float32] = x.max(axis=1)
    if np.isnan(top).any():
        x[np.isnan(x)] = _ILLEGAL
        top = x.max(axis=1)
    return x, top


def _first_of_largest(x: NDArray[np.float32], top: NDArray[np.float32]) -> NDArray[np.int64]:
    tokens: NDArray[np.int64] = x.argmax(axis=1)
    tokens[top == _ILLEGAL] = _NO_TOKEN
    return tokens


def _support(x: NDArray[np.float32], top: NDArray[np.float32], params: SampleParams) -> NDArray[np.uint64]:
    """Weights [B,n], row by row: a token step has few rows, and what takes time in one is the number of calls."""
    rows = [_row_support(row, x[row], top[row : row + 1], params) for row in range(len(x))]
    return rows[0][None] if len(rows) == 1 else np.stack(rows)


def _row_support(
    row: int, x: NDArray[np.float32], top: NDArray[np.float32], params: SampleParams
) -> NDArray[np.uint64]:
    """Weights [n], 0 outside the support: after top-k (all ties at the k-th value stay), top-p and min-p."""
    num_tokens = len(x)
    k, cuts_p = int(params.top_k[row]) or num_tokens, bool(params.top_p[row] < 1)
    if k >= num_tokens and not cuts_p:
        weights: NDArray[np.uint64] = weights_from_scores(x[None], top)[0]
    else:
        largest = _largest(x, k if k < num_tokens else _FIRST_CANDIDATES)
        both = weights_from_scores(np.concatenate((x, largest))[None], top)[0]  # one call: most of its time is overhead
        weights, masses = both[:num_tokens], both[num_tokens:]
        if k < num_tokens:
            weights *= x >= largest[k - 1]
        if cuts_p:
            _cut_top_p(weights, masses, x, top, largest, min(k, num_tokens), params.top_p[row : row + 1])
    if params.min_p[row] > 0:
        weights *= weights >= np.uint64(math.ceil(float(params.min_p[row]) * ONE))
    return weights


def _largest(x: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """At least the `count` largest scores of x [n], descending; all where there are not so many."""
    num_tokens = len(x)
    if count < num_tokens > _SORTED_WHOLE:
        x = np.partition(x, num_tokens - count)[num_tokens - count :]
    return np.sort(x)[::-1]


def _cut_top_p(
    weights: NDArray[np.uint64],
    masses: NDArray[np.uint64],
    x: NDArray[np.float32],
    top: NDArray[np.float32],
    largest: NDArray[np.float32],
    k: int,
    top_p: NDArray[np.float32],
) -> None:
    """Zero, in place, the weights [n] of tokens whose mass before them is >= top_p [1] of their sum.

    Tokens are ordered by score, equals by index. Only values are sorted, never indices, and only as many of the
    largest as it takes (`masses` are their weights): the edge is a value, and of the tokens tied there with weight w
    the first ceil((target - mass above) / w) in index order stay.
    """
    target = ceil_share(weights.sum(keepdims=True), top_p)[0]
    mass = masses.cumsum()
    while len(largest) < k and mass[-1] < target:
        largest = _largest(x, 8 * len(largest))
        masses = weights_from_scores(largest[None], top)[0]
        mass = np.cumsum(masses)
    # Behind the k-th only its equals are left: where the first k do not reach the target, the edge is the k-th value.
    column = min(int(mass.searchsorted(target)), k - 1)
    edge = largest[column]
    above = int(masses[: np.count_nonzero(largest > edge)].sum())
    num_stay = -((above - int(target)) // max(int(masses[column]), 1))
    stays = x >= edge
    tied = x == edge
    if np.count_nonzero(tied) > num_stay:
        stays &= ~tied | (np.cumsum(tied) <= num_stay)
    weights *= stays
