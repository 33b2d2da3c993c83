"""Arrays in device memory, ours and those of others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from illume_runtime.device.dlpack import CUDA, CUDA_HOST, CUDA_MANAGED, capsule_of

ON_DEVICE = (CUDA, CUDA_HOST, CUDA_MANAGED)


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """A contiguous array at a device address; `owner` keeps the memory. torch and CuPy take it as it is (no copy).

    Its stream is not told: synchronize, or let the other library wait for our stream's handle.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any
    device: tuple[int, int] = (CUDA, 0)

    @property
    def nbytes(self) -> int:
        """Its size."""
        return prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> DeviceArray:
        """The part [start, stop) of the first dimension."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows: got {start} to {stop} of {self.shape[0]}, expected a part of them")
        row = prod(self.shape[1:]) * self.dtype.itemsize
        return DeviceArray(
            self.address + start * row, (stop - start, *self.shape[1:]), self.dtype, self.owner, self.device
        )

    def shaped(self, *shape: int) -> DeviceArray:
        """The beginning of the same memory in another shape. ValueError where it is larger."""
        if prod(shape) > prod(self.shape):
            raise ValueError(f"shaped: got {shape} of {self.shape}, expected no more elements")
        return DeviceArray(self.address, shape, self.dtype, self.owner, self.device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        return capsule_of(self.address, self.shape, self.dtype, self.device, self)


def array_of(other: Any, devices: Collection[int] = ON_DEVICE) -> DeviceArray:
    """The memory of an array of torch, CuPy or another library, not copied; bfloat16 is two bytes without a type.

    TypeError for one with gaps, or in memory that the GPU does not see (`devices` are DLPack's kinds).
    """
    interface = getattr(other, "__cuda_array_interface__", None)
    if interface is not None:
        if interface.get("strides") is not None:
            raise TypeError("array_of: got an array with strides, expected a contiguous one; copy it first")
        dtype = np.dtype(interface["typestr"])
        return DeviceArray(int(interface["data"][0]), tuple(interface["shape"]), dtype, other)
    if not hasattr(other, "__dlpack__"):
        raise TypeError(f"array_of: got {type(other).__name__}, expected __cuda_array_interface__ or __dlpack__")
    from illume_runtime.device.dlpack import tensor_of

    capsule = other.__dlpack__()
    address, shape, dtype, device = tensor_of(capsule)
    if device[0] not in devices:
        raise TypeError(f"array_of: got {type(other).__name__} in memory of the host, expected one on the GPU; move it")
    return DeviceArray(address, shape, dtype, capsule, device)
