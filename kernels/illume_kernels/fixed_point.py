"""Probabilities as integers: weight = trunc(2^40 exp(x - max)), so that sums do not depend on their order.

Every float operation is a separately rounded float32 multiply, add or divide: the same inputs give the same bits on any
IEEE machine, as long as no compiler contracts a multiply and an add.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ONE = 1 << 40
"""The weight of the largest score. 2^40 times 2^22 tokens stays below 2^63."""

MAX_TOKENS = 1 << 22

_LOWEST = np.float32(-30.0)  # trunc(2^40 exp(-30)) = 0: anything below has no weight either
_LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts; the first has 10 bits, so k * _LN2_HIGH is exact for |k| <= 43.
_LN2_HIGH = np.float32(355 / 512)
_LN2_LOW = np.float32(0.6931471805599453 - 355 / 512)
# exp(r) = 1 + r + r^2 q(r) on |r| <= ln(2)/2: minimax fit of q in relative error, 3.1e-9 before rounding.
_POLYNOMIAL = tuple(
    np.float32(c)
    for c in (0.0013814539415761828, 0.00836874544620514, 0.04166838899254799, 0.1666652113199234, 0.5, 1, 1)
)
_MANTISSA_BITS = 23
_FEW = 8
_BELOW_ONE = np.float32(1 - 2.0**-24)
_BELOW_ONE_FLOAT = float(_BELOW_ONE)


def weights_from_scores(x: NDArray[np.float32], top: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Weights [B,n] of the scores x [B,n] float32 without NaN; top [B] is each row's largest score.

    The largest score weighs exactly ONE, -inf weighs 0, and so does all that lies more than 27.7 below the top. Where
    top is +inf the scores +inf share the row; where it is -inf the row weighs nothing.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        d = x - top[:, None]
    if not np.isfinite(top).all():
        endless = np.isinf(top)
        d[endless] = np.where((x[endless] == top[endless, None]) & (x[endless] > 0), np.float32(0), _LOWEST)
    np.maximum(d, _LOWEST, out=d)
    k = d * _LOG2_E
    np.rint(k, out=k)
    d -= k * _LN2_HIGH
    d -= k * _LN2_LOW
    p = d * _POLYNOMIAL[0]
    for coefficient in _POLYNOMIAL[1:-1]:
        p += coefficient
        p *= d
    p += _POLYNOMIAL[-1]
    # p is in [0.7, 1.42] and k in [-43, 0]: adding k + 40 to its exponent is the exact product with 2^(k + 40).
    exponent = k.astype(np.int32)
    exponent += 40
    exponent <<= _MANTISSA_BITS
    exponent += p.view(np.int32)
    weights: NDArray[np.uint64] = exponent.view(np.float32).astype(np.int64).view(np.uint64)
    return weights


def mulhi64(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """floor(a b / 2^64) for uint64 arrays [B]."""
    if len(a) <= _FEW:
        return np.array([x * y >> 64 for x, y in zip(a.tolist(), b.tolist(), strict=True)], dtype=np.uint64)
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    a_low, a_high, b_low, b_high = a & mask, a >> half, b & mask, b >> half
    low, middle = a_low * b_low, a_high * b_low
    carry = middle + (low >> half)
    other = a_low * b_high + (carry & mask)
    high: NDArray[np.uint64] = a_high * b_high + (carry >> half) + (other >> half)
    return high


def share_fraction(share: NDArray[np.float32]) -> NDArray[np.uint64]:
    """share 2^64 for share [B] in (0, 1]: exact below 1, which has 24 bits; 1 is taken as the float32 before it."""
    return (np.minimum(share, _BELOW_ONE).astype(np.float64) * 2.0**64).astype(np.uint64)


def ceil_share(total: NDArray[np.uint64], share: NDArray[np.float32]) -> NDArray[np.uint64]:
    """ceil(total share) for share [B] in (0, 1], at least 1: an integer mass is < total share iff it is < this."""
    if len(total) <= _FEW:
        pairs = zip(total.tolist(), share.tolist(), strict=True)
        return np.array([max(-(-t * int(min(s, _BELOW_ONE_FLOAT) * 2.0**64) >> 64), 1) for t, s in pairs], np.uint64)
    fraction = share_fraction(share)
    rest = (total * fraction) != 0  # the low 64 bits of the product, on purpose
    mass: NDArray[np.uint64] = np.maximum(mulhi64(total, fraction) + rest, np.uint64(1))
    return mass
