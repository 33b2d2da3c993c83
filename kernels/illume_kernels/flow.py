"""One step of the diffusion loop: guidance, then a linear multistep solver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def guided_step(
    x: NDArray[np.float32],
    v_cond: NDArray[np.float32],
    v_uncond: NDArray[np.float32] | None,
    guidance: float,
    v_prev: NDArray[np.float32] | None,
    dt: float,
    c_cur: float,
    c_prev: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Next latents and the guided velocity, both of x's shape, float32.

    v = v_uncond + guidance (v_cond - v_uncond); x' = x + dt (c_cur v + c_prev v_prev). Without `v_uncond` the
    guidance is 1; without `v_prev` its coefficient is 0.
    """
    v = v_cond if v_uncond is None else v_uncond + np.float32(guidance) * (v_cond - v_uncond)
    step = np.float32(dt * c_cur) * v
    if v_prev is not None:
        step = step + np.float32(dt * c_prev) * v_prev
    return x + step, v
