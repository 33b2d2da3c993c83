"""How the rows of a batch lie in device memory for the sampling kernels (`cuda/row.cuh`)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from illume_kernels.fixed_point import ONE, share_fraction
from illume_kernels.params import SampleParams

ROW = np.dtype(
    [
        ("seed", "<u8"),
        ("top_p", "<u8"),
        ("min_weight", "<u8"),
        ("request", "<u4"),
        ("top_k", "<u4"),
        ("temperature", "<f4"),
        ("guidance", "<f4"),
        ("penalty", "<f4"),
        ("cond_row", "<i4"),
        ("uncond_row", "<i4"),
        ("forced", "<i4"),
    ]
)
TRACE = np.dtype(
    [
        ("top_key", "<u4"),
        ("floor_key", "<u4"),
        ("edge_key", "<u4"),
        ("num_stay", "<u4"),
        ("above", "<u8"),
        ("total", "<u8"),
        ("draw", "<u8"),
    ]
)


def rows_from_params(
    params: SampleParams,
    *,
    guidance: ArrayLike = 1.0,
    penalty: ArrayLike = 1.0,
    cond_row: ArrayLike | None = None,
    uncond_row: ArrayLike = -1,
    forced: ArrayLike = -1,
) -> NDArray[Any]:
    """ROW [B] of the parameters, but for their step, which is a counter of its own in device memory.

    cond_row: the row of the logits (default: 0, 1, ...); uncond_row: that without the user's text, -1 for no guidance;
    forced: a token that is passed through, -1 for none; all [B] or a scalar. ValueError where a penalty is not > 0.
    """
    batch = len(params)
    factor = np.broadcast_to(np.asarray(penalty, np.float32), (batch,))
    if not (factor > 0).all():
        raise ValueError(f"rows_from_params: got penalty={factor.min()}, expected > 0; use 1 to switch it off")
    rows = np.zeros(batch, ROW)
    rows["seed"], rows["request"] = params.seed, params.request
    rows["temperature"], rows["guidance"], rows["penalty"] = params.temperature, guidance, factor
    rows["top_k"] = np.minimum(params.top_k, np.iinfo(np.uint32).max)
    rows["top_p"] = np.where(params.top_p < 1, share_fraction(params.top_p), np.uint64(0))
    rows["min_weight"] = [math.ceil(float(p) * ONE) for p in params.min_p]
    rows["cond_row"] = np.arange(batch) if cond_row is None else cond_row
    rows["uncond_row"], rows["forced"] = uncond_row, forced
    return rows


def bits_of_tokens(tokens: ArrayLike, num_tokens: int) -> NDArray[np.uint32]:
    """Bitmap [ceil(num_tokens / 32)] uint32 of tokens [M], those outside [0, num_tokens) passed over."""
    given = np.asarray(tokens, np.int64)
    is_set = np.zeros((num_tokens + 31) // 32 * 32, np.bool_)
    is_set[given[(given >= 0) & (given < num_tokens)]] = True
    return np.packbits(is_set, bitorder="little").view("<u4")
