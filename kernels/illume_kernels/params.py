"""How each row of a batch is sampled."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DTYPES: dict[str, np.dtype[Any]] = {
    "temperature": np.dtype(np.float32),
    "top_k": np.dtype(np.int64),
    "top_p": np.dtype(np.float32),
    "min_p": np.dtype(np.float32),
    "seed": np.dtype(np.uint64),
    "request": np.dtype(np.uint32),
    "step": np.dtype(np.uint32),
}
_OTHERS = tuple(name for name in _DTYPES if name != "step")


@dataclass(frozen=True, slots=True)
class SampleParams:
    """One value for each row, every array [B].

    temperature float32 (0: the largest logit), top_k int64 (0: off), top_p float32 in (0, 1] (1: off), min_p float32 in
    [0, 1] (0: off), seed uint64, request uint32, step uint32. A draw is fixed by (seed, request, step), so no two draws
    that should differ may share all three. ValueError where an array does not fit.
    """

    temperature: NDArray[np.float32]
    top_k: NDArray[np.int64]
    top_p: NDArray[np.float32]
    min_p: NDArray[np.float32]
    seed: NDArray[np.uint64]
    request: NDArray[np.uint32]
    step: NDArray[np.uint32]

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_array(field.name, getattr(self, field.name), self.temperature.shape)
        finite = np.isfinite(self.temperature)
        _check_values("temperature", self.temperature, finite & (self.temperature >= 0), "finite and >= 0 (0: greedy)")
        _check_values("top_k", self.top_k, self.top_k >= 0, ">= 0 (0: off)")
        _check_values("top_p", self.top_p, (self.top_p > 0) & (self.top_p <= 1), "in (0, 1] (1: off)")
        _check_values("min_p", self.min_p, (self.min_p >= 0) & (self.min_p <= 1), "in [0, 1] (0: off)")

    def __len__(self) -> int:
        return len(self.temperature)

    @classmethod
    def broadcast(
        cls,
        batch: int,
        *,
        temperature: ArrayLike = 1.0,
        top_k: ArrayLike = 0,
        top_p: ArrayLike = 1.0,
        min_p: ArrayLike = 0.0,
        seed: ArrayLike = 0,
        request: ArrayLike = 0,
        step: ArrayLike = 0,
    ) -> SampleParams:
        """Parameters for `batch` rows from scalars or arrays [batch]. ValueError where a value does not fit."""
        values = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "seed": seed,
            "request": request,
            "step": step,
        }
        return cls(**{name: _filled(name, value, batch) for name, value in values.items()})

    def at_step(self, step: int) -> SampleParams:
        """The same rows at another step; cheap, for the token loop."""
        moved = object.__new__(SampleParams)  # the other arrays are checked already
        for name in _OTHERS:
            object.__setattr__(moved, name, getattr(self, name))
        object.__setattr__(moved, "step", np.array([step] * len(self), np.uint32))
        return moved


def _filled(name: str, value: ArrayLike, batch: int) -> NDArray[Any]:
    dtype = _DTYPES[name]
    given = np.asarray(value)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if given.dtype.kind not in "iu" or (
            given.size and not limits.min <= int(given.min()) <= int(given.max()) <= limits.max
        ):
            raise ValueError(
                f"SampleParams: got {name}={value!r}, expected integers in [{limits.min}, {limits.max}]; pass a {dtype}"
            )
    if given.shape not in ((), (1,), (batch,)):
        raise ValueError(
            f"SampleParams: {name} has shape {given.shape}, expected a scalar or ({batch},); give one for each row"
        )
    return np.ascontiguousarray(np.broadcast_to(given.astype(dtype), (batch,)))


def _check_array(name: str, array: NDArray[np.generic], shape: tuple[int, ...]) -> None:
    if len(shape) != 1 or array.shape != shape or array.dtype != _DTYPES[name]:
        raise ValueError(
            f"SampleParams: {name} has shape {array.shape} {array.dtype}, expected [B] {_DTYPES[name]} "
            f"with B as in temperature {shape}; use SampleParams.broadcast"
        )


def _check_values(name: str, array: NDArray[np.generic], good: NDArray[np.bool_], expected: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"SampleParams: got {name}={array[row]} in row {row}, expected {expected}; correct {name}")
