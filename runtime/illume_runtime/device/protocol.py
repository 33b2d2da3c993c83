"""What we ask of a GPU: memory, pinned memory, streams, events, modules, launches and graphs, and no more.

Addresses are plain integers and may come from anywhere (torch, CuPy: see `array.py`). All work is put on a stream and
returns at once; only `Stream.synchronize` and `Event.synchronize` wait for it. Every method raises MemoryLimitError
where the GPU's memory is full, EngineError where the driver refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from illume_kernels.launch import Gpu, Launch


class Memory(Protocol):
    """Memory of the device, as it is found; it is given back when the object is."""

    @property
    def address(self) -> int:
        """Of the first byte, a multiple of 256."""

    @property
    def num_bytes(self) -> int:
        """Its size."""


class PinnedMemory(Memory, Protocol):
    """Memory of the host that the device reads and writes as well, at `address`."""

    @property
    def array(self) -> NDArray[np.uint8]:
        """The same bytes, for the host: [num_bytes]. What the device wrote is there once an event behind it is."""


class Event(Protocol):
    """A place in a stream."""

    def synchronize(self) -> None:
        """Wait until the stream has come here."""

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds on the device from an earlier event to this one, once both are there; both are timed."""


class Graph(Protocol):
    """Work that was captured, to be done again with the same arguments. It owns none of the memory."""

    def replay(self) -> None:
        """Put the work on the stream that it was captured from, as one launch."""


class Module(Protocol):
    """Kernels, loaded."""


class Stream(Protocol):
    """Work in order. It does not wait for the default stream."""

    @property
    def handle(self) -> int:
        """The CUstream, for TensorRT, ONNX Runtime, torch or CuPy."""

    def launch(self, module: Module, launch: Launch) -> None:
        """Run a kernel; `launch.grid` counts CTAs."""

    def upload(self, target: int, source: NDArray[np.generic]) -> None:
        """Copy a contiguous host array to device memory; pinned sources are read when the stream comes there."""

    def download(self, target: NDArray[np.generic], source: int) -> None:
        """Copy device memory to a contiguous host array, which is filled once the stream came here."""

    def copy(self, target: int, source: int, num_bytes: int) -> None:
        """Copy within device memory."""

    def zero(self, target: int, num_bytes: int) -> None:
        """Fill with zeros."""

    def record(self, *, is_timed: bool = False) -> Event:
        """A new event at this place; a timed one costs the device more."""

    def wait(self, event: Event) -> None:
        """Let this stream wait for an event of another one; the host does not wait."""

    def synchronize(self) -> None:
        """Wait until all is done."""

    def captured(self, enqueue: Callable[[], None]) -> Graph:
        """A graph of what `enqueue` puts on this stream, none of which is done now; it must not allocate or wait."""


class Device(Protocol):
    """A GPU, in its primary context."""

    @property
    def name(self) -> str:
        """As the driver calls it."""

    @property
    def compute_capability(self) -> tuple[int, int]:
        """As in (8, 7)."""

    @property
    def gpu(self) -> Gpu:
        """What launches are planned for; below 9.0 where clusters cannot be launched in this way."""

    def current(self) -> AbstractContextManager[None]:
        """Within it the device may be used on this thread; on the one that opened it, it may be used anyway."""

    def free_bytes(self) -> int:
        """Memory that is left."""

    def allocate(self, num_bytes: int) -> Memory:
        """Device memory of at least one byte."""

    def pinned(self, num_bytes: int) -> PinnedMemory:
        """Host memory for both sides."""

    def stream(self) -> Stream:
        """A new stream."""

    def module(self, image: bytes) -> Module:
        """The kernels of a fatbin or a cubin."""
