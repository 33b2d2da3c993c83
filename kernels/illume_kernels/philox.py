"""Counter-based random numbers: Philox4x32-10 (Salmon et al., 2011), the same on every machine.

A number depends on its key and counter alone, so what a request draws at a step is independent of batch row, batch
size and launch shape. The counter is (request, step, stream, block); the key is the 64-bit seed.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

STREAM_TOKENS: Final = 0
STREAM_NOISE: Final = 1

_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_ROUNDS: Final = 10


def philox(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Four 32-bit numbers [4, ...] of counter [4, ...] and key [2, ...]; all hold 32-bit values in uint64."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = (np.asarray(word, np.uint64) for word in key)
    for round_ in range(_ROUNDS):
        a = c0 * _MULTIPLIERS[0]
        b = c2 * _MULTIPLIERS[1]
        r0 = (k0 + np.uint64(_WEYL[0] * round_ & 0xFFFFFFFF)) & _LOW
        r1 = (k1 + np.uint64(_WEYL[1] * round_ & 0xFFFFFFFF)) & _LOW
        c0, c1, c2, c3 = (b >> _HALF) ^ c1 ^ r0, b & _LOW, (a >> _HALF) ^ c3 ^ r1, a & _LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3))


def uniform_u64(seed: ArrayLike, request: ArrayLike, step: ArrayLike, stream: int) -> NDArray[np.uint64]:
    """One uniform 64-bit number for each (seed, request, step), shapes broadcast."""
    seeds = np.asarray(seed, np.uint64)
    requests, steps = np.asarray(request, np.uint64), np.asarray(step, np.uint64)
    seeds, requests, steps = np.broadcast_arrays(seeds, requests, steps)
    zero = np.zeros_like(requests)
    counter = np.stack((requests & _LOW, steps & _LOW, zero + np.uint64(stream), zero))
    words = philox(counter, np.stack((seeds & _LOW, seeds >> _HALF)))
    result: NDArray[np.uint64] = (words[1] << _HALF) | words[0]
    return result


def normal(seed: int, request: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal numbers float32 of `shape`, by Box and Muller's transform in float64."""
    count = int(np.prod(shape))
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    zero = np.zeros_like(blocks)
    counter = np.stack((zero + np.uint64(request), blocks, zero + np.uint64(stream), zero))
    key = np.array((seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF), np.uint64)
    words = philox(counter, key).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((words[:2] + 0.5) * 2.0**-32))
    angle = 2.0 * np.pi * (words[2:] + 0.5) * 2.0**-32
    pairs = np.stack((radius * np.cos(angle), radius * np.sin(angle)))  # [2, 2, blocks]
    return pairs.transpose(2, 0, 1).reshape(-1)[:count].reshape(shape).astype(np.float32)
