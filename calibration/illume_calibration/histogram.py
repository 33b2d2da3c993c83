"""Magnitudes of a stream of values as counts: small, of a fixed size, and the same whatever the order of the values.

The bins are equal parts of [0, limit), where the limit is a power of two above the largest magnitude so far. When a
larger one comes, the limit doubles and neighbouring bins are merged: an edge of the new bins is an edge of the old
ones, so that nothing is lost that a single pass over all values would have kept.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

NUM_BINS: Final = 4096
SMALLEST_EXPONENT: Final = -60


class Histogram:
    """Counts [NUM_BINS] of |x|, the largest |x|, and how many values were seen."""

    __slots__ = ("counts", "exponent", "largest")

    def __init__(self) -> None:
        self.counts = np.zeros(NUM_BINS, np.int64)
        self.exponent = SMALLEST_EXPONENT
        self.largest = 0.0

    @property
    def limit(self) -> float:
        """The upper edge of the last bin."""
        return float(2.0**self.exponent)

    @property
    def num_values(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def edges(self) -> NDArray[np.float64]:
        """The upper edge of each bin."""
        return np.arange(1, NUM_BINS + 1, dtype=np.float64) * np.float64(self.limit / NUM_BINS)

    @property
    def centers(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return (np.arange(NUM_BINS, dtype=np.float64) + 0.5) * np.float64(self.limit / NUM_BINS)

    def add(self, values: NDArray[np.floating]) -> None:
        """Count values of any shape. Raises ValueError if one is not finite."""
        if values.size == 0:
            return
        magnitudes = np.abs(values, dtype=np.float32).ravel()
        largest = float(magnitudes.max())
        if not np.isfinite(largest):
            raise ValueError("a value is not finite")
        self._grow(largest)
        self.largest = max(self.largest, largest)
        # A product with a power of two is exact, so a value falls into the same bin whenever it comes.
        bins = (magnitudes * np.float32(NUM_BINS / self.limit)).astype(np.int32)
        self.counts += np.bincount(bins, minlength=NUM_BINS)

    def merge(self, other: Histogram) -> None:
        """Count what another histogram has counted."""
        mine, theirs = self.exponent, other.exponent
        self._grow_to(max(mine, theirs))
        self.counts += _merged(other.counts, self.exponent - theirs)
        self.largest = max(self.largest, other.largest)

    def _grow(self, largest: float) -> None:
        if largest >= self.limit:
            self._grow_to(int(np.frexp(largest)[1]))

    def _grow_to(self, exponent: int) -> None:
        self.counts = _merged(self.counts, exponent - self.exponent)
        self.exponent = exponent


def _merged(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """The counts in bins that are 2^doublings as wide."""
    merged = np.zeros(NUM_BINS, np.int64)
    shift = min(doublings, 60)
    np.add.at(merged, np.arange(NUM_BINS) >> shift, counts)
    return merged
