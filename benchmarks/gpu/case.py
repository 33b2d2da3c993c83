"""A kernel over given sizes: its launches over several inputs, and the comparison with its definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from illume_kernels.launch import Launch
from illume_runtime.errors import QualityError

TOP_P, GUIDANCE = 0.8, 2.0
BLOCK_ROWS = 1024  # of random numbers; a larger table repeats them


@dataclass(frozen=True, slots=True)
class Case:
    """Launches in turn, what they work on, and `check`, which runs each once and raises QualityError.

    `compare`, where there is one, does so with what many launches have left behind.
    """

    launches: list[Launch]
    check: Callable[[], None]
    compare: Callable[[], None] = lambda: None
    kept: list[Any] = field(default_factory=list)  # memory that the launches point at


def expect_equal(what: str, got: NDArray[Any], expected: NDArray[Any]) -> None:
    """Bit for bit. Raises QualityError."""
    same = got.shape == expected.shape and np.array_equal(got, expected)
    if not same:
        places = np.flatnonzero((got != expected).ravel()) if got.shape == expected.shape else np.zeros(1, np.int64)
        first = int(places[0])
        raise QualityError(
            f"{what}: {len(places)} of {got.size} values differ from the definition, the first at {first}: got "
            f"{got.ravel()[first]}, expected {expected.ravel()[first]}; do not use this GPU, report it"
        )


def repeated_rows(seed: int, num_rows: int, width: int, kind: str) -> NDArray[Any]:
    """Random numbers [num_rows, width] of a format; `int4` has two in a byte."""
    random, block = np.random.default_rng(seed), min(num_rows, BLOCK_ROWS)
    values: NDArray[Any]
    if kind == "int4":
        values = random.integers(0, 256, (block, width // 2)).astype(np.uint8)
    elif kind == "int8":
        values = random.integers(-127, 128, (block, width)).astype(np.int8)
    else:
        values = random.standard_normal((block, width)).astype(kind)
    return np.concatenate([values] * -(-num_rows // block))[:num_rows]
