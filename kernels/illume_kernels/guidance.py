"""Classifier-free guidance (Ho and Salimans, 2022): a conditional and an unconditional prediction become one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def guided(cond: NDArray[np.float32], uncond: NDArray[np.float32], guidance: float) -> NDArray[np.float32]:
    """uncond + guidance (cond - uncond), float32, rounded after each operation; shapes broadcast."""
    with np.errstate(invalid="ignore", over="ignore"):
        result: NDArray[np.float32] = uncond + np.float32(guidance) * (cond - uncond)
    return result
