"""Launch descriptions: a kernel, its threads, its arguments. Plain data, which a device layer runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
"""Codes of the number formats, as the kernels take them."""

NUM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a launch depends on: compute capability, multiprocessors, shared memory that a block may opt in to."""

    compute_capability: tuple[int, int]
    num_processors: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel on one stream. Arguments are numpy scalars, in order, with the sizes that the kernel expects.

    `cluster` CTAs along x form a cluster (1: none); `num_bytes` is what the kernel has to move at least.
    """

    symbol: str
    grid: tuple[int, int, int]
    block: int
    cluster: int
    shared_bytes: int
    arguments: tuple[np.generic, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of the vocabulary in logits [rows, row_stride] on the device. ValueError where it is outside."""

    address: int
    dtype: str
    row_stride: int
    start: int
    num_tokens: int

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(
                f"Segment: got dtype {self.dtype!r}, expected one of {', '.join(DTYPES)}; convert the logits"
            )
        if not (self.start >= 0 and 0 < self.num_tokens <= self.row_stride - self.start):
            raise ValueError(
                f"Segment: got tokens {self.start} to {self.start + self.num_tokens} of rows of {self.row_stride}, "
                "expected a segment inside the row; take the bounds from the vocabulary"
            )

    @property
    def arguments(self) -> tuple[np.generic, ...]:
        """The first five arguments of the sampling kernels."""
        return (
            np.uint64(self.address),
            np.uint32(DTYPES[self.dtype]),
            np.uint64(self.row_stride),
            np.uint32(self.start),
            np.uint32(self.num_tokens),
        )

    def num_bytes(self, num_rows: int) -> int:
        """Bytes of the segment in so many rows."""
        return num_rows * self.num_tokens * NUM_BYTES[self.dtype]
