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

import numpy as np
from numpy.typing import ArrayLike, NDArray

from illume_kernels.fixed_point import MAX_TOKENS, ONE, ceil_share, mulhi64, weights_from_scores
from illume_kernels.params import SampleParams
from illume_kernels.penalty import repetition_penalty
from illume_kernels.philox import STREAM_TOKENS, uniform_u64

__all__ = ["SampleParams", "greedy", "probabilities", "repetition_penalty", "sample"]

_NO_TOKEN = -1
_ILLEGAL = np.float32(-np.inf)
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
    if is_greedy.all():
        tokens = _first_of_largest(x, top)
    else:
        prefix = np.cumsum(_support(x, top, params), axis=1)
        total = prefix[:, -1]
        r = mulhi64(total, uniform_u64(params.seed, params.request, params.step, STREAM_TOKENS))
        tokens = (prefix > r[:, None]).argmax(axis=1)
        tokens[total == 0] = _NO_TOKEN
        if is_greedy.any():
            tokens = np.where(is_greedy, _first_of_largest(x, top), tokens)
    if forced is None:
        return tokens
    if forced.shape != tokens.shape:
        raise ValueError(
            f"sample: forced has shape {forced.shape}, expected {tokens.shape}; use -1 where a row is free"
        )
    return np.where(forced >= 0, forced, tokens).astype(np.int64)


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
    x += np.float32(0)  # -0 becomes +0: the two are one value
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
    """Weights [B,n], 0 outside the support: after top-k (all ties at the k-th value stay), top-p and min-p."""
    num_tokens = x.shape[1]
    cuts_k = (params.top_k > 0) & (params.top_k < num_tokens)
    cuts_p = params.top_p < 1
    some_k, some_p = bool(cuts_k.any()), bool(cuts_p.any())
    if not (some_k or some_p):
        weights = weights_from_scores(x, top)
    else:
        k = np.where(cuts_k, params.top_k, num_tokens)
        wanted = int(k[cuts_k].max()) if some_k else 0
        if (cuts_p & ~cuts_k).any():
            wanted = max(wanted, _FIRST_CANDIDATES)
        largest = _largest(x, wanted)
        both = weights_from_scores(np.concatenate((x, largest), axis=1), top)  # one call: most of its time is overhead
        weights, masses = both[:, :num_tokens], both[:, num_tokens:]
        if some_k:
            last = np.minimum(k, largest.shape[1]) - 1
            kth = np.where(cuts_k, largest[np.arange(len(x)), last], _ILLEGAL)
            weights *= x >= kth[:, None]
        if some_p:
            _cut_top_p(weights, masses, x, top, largest, k, params.top_p)
    if params.min_p.any():
        floor = np.ceil(params.min_p.astype(np.float64) * ONE).astype(np.uint64)
        weights *= weights >= floor[:, None]
    return weights


def _largest(x: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """At least the `count` largest scores of each row, descending; all where there are not so many."""
    num_tokens = x.shape[1]
    if num_tokens <= _SORTED_WHOLE:
        return np.sort(x, axis=1)[:, ::-1]
    if count < num_tokens:
        x = np.partition(x, num_tokens - count, axis=1)[:, num_tokens - count :]
    return np.sort(x, axis=1)[:, ::-1]


def _cut_top_p(
    weights: NDArray[np.uint64],
    masses: NDArray[np.uint64],
    x: NDArray[np.float32],
    top: NDArray[np.float32],
    largest: NDArray[np.float32],
    k: NDArray[np.int64],
    top_p: NDArray[np.float32],
) -> None:
    """Zero, in place, the weights of tokens whose mass before them is >= top_p of the row's sum.

    Tokens are ordered by score, equals by index. Only values are sorted, never indices, and only as many of the
    largest as it takes (`masses` are their weights): the edge is a value, and of the tokens tied there with weight w
    the first ceil((target - mass above) / w) in index order stay.
    """
    cuts, num_tokens = top_p < 1, x.shape[1]
    target = ceil_share(weights.sum(axis=1), top_p)
    while True:
        mass = np.cumsum(masses, axis=1)
        count = largest.shape[1]
        if count == num_tokens or not (cuts & (k > count) & (mass[:, -1] < target)).any():
            break
        largest = _largest(x, 8 * count)
        masses = weights_from_scores(largest, top)
    # Behind the k-th only its equals are left: where the first k do not reach the target, the edge is the k-th value.
    short = (mass < target[:, None]).sum(axis=1)
    rows, column = np.arange(len(x)), np.minimum(short, np.minimum(k, count) - 1)
    edge = largest[rows, column]
    above = (masses * (largest > edge[:, None])).sum(axis=1)
    each = np.maximum(masses[rows, column], np.uint64(1))
    num_stay = (target - above + each - np.uint64(1)) // each
    edge[~cuts] = _ILLEGAL
    tied = x == edge[:, None]
    if (cuts & (np.count_nonzero(tied, axis=1) > num_stay)).any():
        rank = np.cumsum(tied, axis=1, dtype=np.uint64)
        tied &= (rank <= num_stay[:, None]) | ~cuts[:, None]
    tied |= x > edge[:, None]
    weights *= tied
