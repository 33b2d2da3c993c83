"""The head of one vocabulary segment for few rows, with the order of its sums: what `head_gemv` computes bit for bit.

A product of fp16, bf16, int8 or int4 weights with 16-bit activations is exact in float32, so only sums round. Column
c belongs to lane c / 8 mod 32; a lane adds its columns from the lowest, then lanes are added in pairs 16, 8, 4, 2, 1
apart. int8: the scale of the token multiplies the sum. int4: 8 columns are added, multiplied by the scale of their
group, and then added to the lane's sum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from illume_kernels.guidance import guided

_LANES, _COLUMNS = 32, 8


def head_logits(
    weights: NDArray[np.float32],
    hidden: NDArray[np.float32],
    *,
    token_scales: NDArray[np.float32] | None = None,
    group_scales: NDArray[np.float32] | None = None,
    guidance: float | None = None,
) -> NDArray[np.float32]:
    """Logits float32 [R,n], with guidance [R/2,n] (conditional rows first), of weights [n,D] and hidden [R,D].

    Both hold values of a 16-bit, 8-bit or 4-bit format as float32; token_scales [n] (int8), group_scales [n,G] (int4).
    """
    num_tokens, width = weights.shape
    steps = -(-width // (_LANES * _COLUMNS))
    padding = ((0, 0), (0, steps * _LANES * _COLUMNS - width))
    w = np.pad(weights, padding).reshape(1, num_tokens, steps, _LANES, _COLUMNS)
    h = np.pad(hidden, padding).reshape(len(hidden), 1, steps, _LANES, _COLUMNS)
    sums = np.zeros((len(hidden), num_tokens, _LANES), np.float32)
    for step in range(steps):
        part = np.zeros_like(sums) if group_scales is not None else sums
        for column in range(_COLUMNS):
            part = part + w[:, :, step, :, column] * h[:, :, step, :, column]
        if group_scales is not None:
            group = width // group_scales.shape[1]
            first = (step * _LANES + np.arange(_LANES)) * _COLUMNS
            scale = group_scales[:, np.minimum(first, width - 1) // group]
            part = sums + scale * part
        sums = part
    while sums.shape[-1] > 1:
        half = sums.shape[-1] // 2
        sums = sums[..., :half] + sums[..., half:]
    logits: NDArray[np.float32] = sums[..., 0]
    if token_scales is not None:
        logits = logits * token_scales
    if guidance is None:
        return logits
    half = len(hidden) // 2
    return guided(logits[:half], logits[half:], guidance)
