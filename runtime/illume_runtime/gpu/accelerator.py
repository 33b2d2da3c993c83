"""One GPU for one pipeline: its device, the stream of all its work, our kernels, and memory that is asked for first."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import DTypeLike, NDArray

from illume_kernels.launch import Launch
from illume_runtime.device.array import DeviceArray
from illume_runtime.device.images import kernel_image
from illume_runtime.device.opening import open_device
from illume_runtime.device.protocol import Device
from illume_runtime.errors import MemoryLimitError
from illume_runtime.gpu.device_track import DeviceTrack

ASKED_BYTES = 1 << 20  # from here on it is asked before: the question itself takes time
RESERVE_BYTES = 64 << 20  # that stay free: the driver and the libraries take some while they run


class Accelerator:
    """Work on it is put on one stream and done in order."""

    def __init__(self, device: Device, image: bytes) -> None:
        self.device = device
        self.stream = device.stream()
        self.track = DeviceTrack(self.stream)
        self._kernels = device.module(image)

    def check_memory(self, num_bytes: int, what: str) -> None:
        """Raises MemoryLimitError where so much is not left."""
        free = max(self.device.free_bytes() - RESERVE_BYTES, 0)
        if num_bytes > free:
            raise MemoryLimitError(
                f"{what} takes {num_bytes / 1e6:.0f} MB of the GPU's memory, but {free / 1e6:.0f} MB are left; "
                "ask for fewer at once, or use a smaller model"
            )

    def array(self, shape: tuple[int, ...], dtype: DTypeLike, what: str = "an array") -> DeviceArray:
        """A new array of zeros. Raises MemoryLimitError."""
        kind = np.dtype(dtype)
        num_bytes = max(prod(shape) * kind.itemsize, 1)
        if num_bytes >= ASKED_BYTES:
            self.check_memory(num_bytes, what)
        memory = self.device.allocate(num_bytes)
        self.stream.zero(memory.address, num_bytes)
        return DeviceArray(memory.address, shape, kind, memory)

    def uploaded(self, values: NDArray[np.generic], what: str = "an array") -> DeviceArray:
        """A new array with these values; structured ones become bytes."""
        host = np.ascontiguousarray(values)
        if host.dtype.names is not None:
            host = host.view(np.uint8)
        array = self.array(host.shape, host.dtype, what)
        if host.size:
            self.stream.upload(array.address, host)
        return array

    def upload(self, target: DeviceArray, values: NDArray[np.generic]) -> None:
        """Fill an array; the values are of its type and size."""
        host = np.ascontiguousarray(values)
        if host.dtype != target.dtype or host.nbytes != target.nbytes:
            raise ValueError(
                f"upload: got {host.dtype} {host.shape}, expected {target.dtype} {target.shape}; convert the values"
            )
        self.stream.upload(target.address, host)

    def downloaded(self, array: DeviceArray) -> NDArray[np.generic]:
        """The values of an array; the host waits for them."""
        host: NDArray[np.generic] = np.empty(array.shape, array.dtype)
        self.stream.download(host, array.address)
        self.stream.synchronize()
        return host

    def launch(self, launch: Launch) -> None:
        """Run one of our kernels."""
        self.stream.launch(self._kernels, launch)


def open_accelerator(implementation: str | None = None) -> Accelerator:
    """The first GPU, as `open_device` finds it.

    Raises UnavailableError: no driver, no GPU, a package or a driver that does not do; UsageError for an unknown name.
    """
    device = open_device(implementation)
    return Accelerator(device, kernel_image(device.compute_capability))
