"""One step of the diffusion loop: guidance, then a linear multistep solver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from illume_kernels.guidance import guided

Latents = NDArray[np.float32]


def guided_step(
    x: Latents,
    e_cond: Latents,
    e_uncond: Latents | None,
    guidance: float,
    m_previous: Latents | None,
    *,
    p: float = 0.0,
    q: float = 1.0,
    a: float = 1.0,
    b: float,
    c: float = 0.0,
) -> tuple[Latents, Latents]:
    """Next latents and what the next step remembers of this one, both of x's shape, float32.

    e = e_uncond + guidance (e_cond - e_uncond); m = p x + q e; x' = a x + b m + c m_previous. Without `e_uncond` the
    guidance is 1; without `m_previous` its coefficient is 0.
    """
    e = e_cond if e_uncond is None else guided(e_cond, e_uncond, guidance)
    m = e if (p, q) == (0.0, 1.0) else np.float32(p) * x + np.float32(q) * e
    step = np.float32(b) * m
    if m_previous is not None:
        step = step + np.float32(c) * m_previous
    return (x if a == 1.0 else np.float32(a) * x) + step, m
