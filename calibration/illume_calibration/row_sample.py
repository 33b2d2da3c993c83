"""Rows of a stream of matrices, each as likely to be kept as any other, of bounded size.

Every row gets a number that depends on its place in the stream alone (SplitMix64); the rows with the smallest numbers
are kept (bottom-k sampling). So what is kept is the same however the stream is cut into pieces.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_ROWS: Final = 1024
MAX_BYTES: Final = 16 * 1024 * 1024  # of one tensor: about 1.4 GB for the 36 layers of a model of 3 billion weights


class RowSample:
    """At most MAX_ROWS `rows` [R, K] and MAX_BYTES, their `numbers` [R] in rising order, and how many were `seen`."""

    __slots__ = ("numbers", "rows", "seen")

    def __init__(self) -> None:
        self.rows = np.zeros((0, 0), np.float32)
        self.numbers = np.zeros(0, np.uint64)
        self.seen = 0

    def add(self, values: NDArray[np.floating]) -> None:
        """Offer the rows of [..., K]."""
        rows = values.reshape(-1, values.shape[-1])
        numbers = _split_mix(np.arange(self.seen, self.seen + len(rows), dtype=np.uint64))
        self.seen += len(rows)
        limit = max(1, min(MAX_ROWS, MAX_BYTES // (4 * max(rows.shape[1], 1))))
        if len(self.numbers) == limit:
            few = numbers < self.numbers[-1]
            rows, numbers = rows[few], numbers[few]
        if not len(numbers):
            return
        kept = self.rows if len(self.numbers) else np.zeros((0, rows.shape[1]), np.float32)
        joined = np.concatenate((self.numbers, numbers))
        smallest = np.argsort(joined)[:limit]
        self.numbers = joined[smallest]
        self.rows = np.concatenate((kept, rows.astype(np.float32, copy=False)))[smallest]


def _split_mix(counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The outputs of SplitMix64 (Steele, Lea and Flood, 2014) at these places."""
    with np.errstate(over="ignore"):
        z = (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
