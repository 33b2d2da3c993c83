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
STREAM_GUMBEL: Final = 2

_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_ROUNDS: Final = 10
_FEW: Final = 8  # up to so many rows, Python integers (6 us a row) are quicker than 100 calls of numpy


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


def philox_words(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four 32-bit numbers of one counter and key, in Python integers: the same function as `philox`."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c3 ^ k1, a & 0xFFFFFFFF
        k0, k1 = k0 + _WEYL[0] & 0xFFFFFFFF, k1 + _WEYL[1] & 0xFFFFFFFF
    return c0, c1, c2, c3


def uniform_u64(seed: ArrayLike, request: ArrayLike, step: ArrayLike, stream: int) -> NDArray[np.uint64]:
    """One uniform 64-bit number for each (seed, request, step), shapes broadcast: word 1 is its high half, word 0 low.

    The low 32 bits of request and step count.
    """
    seeds = np.asarray(seed, np.uint64)
    requests, steps = np.asarray(request, np.uint64), np.asarray(step, np.uint64)
    if seeds.ndim == 1 and seeds.shape == requests.shape == steps.shape and len(seeds) <= _FEW:
        numbers = []
        for s, r, t in zip(seeds.tolist(), requests.tolist(), steps.tolist(), strict=True):
            words = philox_words((r & 0xFFFFFFFF, t & 0xFFFFFFFF, stream, 0), (s & 0xFFFFFFFF, s >> 32))
            numbers.append(words[1] << 32 | words[0])
        return np.array(numbers, np.uint64)
    seeds, requests, steps = np.broadcast_arrays(seeds, requests, steps)
    zero = np.zeros_like(requests)
    counter = np.stack((requests & _LOW, steps & _LOW, zero + np.uint64(stream), zero))
    w0, w1, _, _ = philox(counter, np.stack((seeds & _LOW, seeds >> _HALF)))
    result: NDArray[np.uint64] = (w1 << _HALF) | w0
    return result


def normal(seed: int, request: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal numbers float32 of `shape` in C order, by Box and Muller's transform in float64.

    Counter (request, block, stream, 0), four numbers a block: a larger shape begins with the numbers of a smaller one.
    `stream` other than STREAM_TOKENS, whose counters are the draws of tokens; ValueError otherwise.
    """
    if not 0 < stream < 1 << 32 or not 0 <= request < 1 << 32 or not 0 <= seed < 1 << 64:
        raise ValueError(
            f"normal: got seed={seed} request={request} stream={stream}, expected seed in [0, 2**64), request in "
            "[0, 2**32), stream in [1, 2**32) (0 is the stream of tokens); use STREAM_NOISE"
        )
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
