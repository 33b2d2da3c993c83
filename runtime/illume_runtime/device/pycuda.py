"""The device through PyCUDA: context, memory, streams, events, modules and launches are its own.

PyCUDA knows no graphs and no clusters. Graphs are captured through cuda-bindings on the same stream, which is possible
because both are in the primary context. Launches are planned for clusters of one (`gpu`).
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from illume_kernels.launch import Gpu, Launch
from illume_runtime.device.faults import checked, typed_errors
from illume_runtime.device.packages import package

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
LAST_WITHOUT_CLUSTERS = (8, 9)


def _cuda() -> Any:
    return package("pycuda.driver", "pycuda")


def _driver() -> Any:
    return package("cuda.bindings.driver", "pycuda")


class PycudaMemory:
    """Device memory."""

    def __init__(self, num_bytes: int) -> None:
        with typed_errors(f"{num_bytes / 1e6:.0f} MB", _cuda().Error):
            self._allocation = _cuda().mem_alloc(num_bytes)
        self.address, self.num_bytes = int(self._allocation), num_bytes


class PycudaPinned:
    """Pinned memory of the host, mapped for the device."""

    def __init__(self, num_bytes: int) -> None:
        with typed_errors(f"{num_bytes / 1e6:.0f} MB of pinned memory", _cuda().Error):
            flags = int(_cuda().host_alloc_flags.DEVICEMAP)
            self.array: NDArray[np.uint8] = _cuda().pagelocked_empty(num_bytes, np.uint8, mem_flags=flags)
            self.address = int(self.array.base.get_device_pointer())
        self.num_bytes = num_bytes


class PycudaEvent:
    """An event, with a time where it was asked for."""

    def __init__(self, stream: Any, is_timed: bool) -> None:
        with typed_errors("the GPU", _cuda().Error):
            flags = _cuda().event_flags
            self.event = _cuda().Event(flags.DEFAULT if is_timed else flags.DISABLE_TIMING)
            self.event.record(stream)

    def synchronize(self) -> None:
        """Wait until the stream has come here."""
        with typed_errors("the GPU", _cuda().Error):
            self.event.synchronize()

    def ms_since(self, earlier: PycudaEvent) -> float:
        """Milliseconds on the device from an earlier event."""
        with typed_errors("the GPU", _cuda().Error):
            return float(self.event.time_since(earlier.event))


class PycudaModule:
    """Kernels by name, looked up once."""

    def __init__(self, image: bytes) -> None:
        with typed_errors("kernels", _cuda().Error):
            self._module = _cuda().module_from_buffer(image)
        self._functions: dict[str, Any] = {}
        self._shared: dict[str, int] = {}

    def function(self, launch: Launch) -> Any:
        """The kernel, allowed the shared memory that the launch asks for."""
        function = self._functions.get(launch.symbol)
        if function is None:
            function = self._functions[launch.symbol] = self._module.get_function(launch.symbol)
        if launch.shared_bytes > self._shared.get(launch.symbol, 0):
            function.set_attribute(_cuda().function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES, launch.shared_bytes)
            self._shared[launch.symbol] = launch.shared_bytes
        return function


class PycudaGraph:
    """An executable graph of cuda-bindings."""

    def __init__(self, graph: Any, stream: PycudaStream) -> None:
        (self._executable,) = checked("the GPU's graph", _driver().cuGraphInstantiate(graph, 0))
        checked("the GPU's graph", _driver().cuGraphDestroy(graph))
        self._stream = stream

    def __del__(self) -> None:
        if hasattr(self, "_executable"):
            _driver().cuGraphExecDestroy(self._executable)

    def replay(self) -> None:
        """Launch it on the stream that it was captured from."""
        checked("the GPU's graph", _driver().cuGraphLaunch(self._executable, _driver().CUstream(self._stream.handle)))


class PycudaStream:
    """A stream that does not wait for the default one."""

    def __init__(self) -> None:
        with typed_errors("the GPU", _cuda().Error):
            self._stream = _cuda().Stream(NON_BLOCKING)
        self.handle = int(self._stream.handle)

    def launch(self, module: PycudaModule, launch: Launch) -> None:
        """Run a kernel. Raises ValueError for one in clusters, which PyCUDA cannot launch."""
        if launch.cluster > 1:
            raise ValueError(
                f"{launch.symbol}: got clusters of {launch.cluster}, expected none with PyCUDA; plan for device.gpu"
            )
        with typed_errors(launch.symbol, _cuda().Error):
            function = module.function(launch)
            function(
                *launch.arguments,
                grid=launch.grid,
                block=(launch.block, 1, 1),
                shared=launch.shared_bytes,
                stream=self._stream,
            )

    def upload(self, target: int, source: NDArray[np.generic]) -> None:
        """Copy a contiguous host array to device memory."""
        with typed_errors("upload", _cuda().Error):
            _cuda().memcpy_htod_async(target, source, self._stream)

    def download(self, target: NDArray[np.generic], source: int) -> None:
        """Copy device memory to a contiguous host array."""
        with typed_errors("download", _cuda().Error):
            _cuda().memcpy_dtoh_async(target, source, self._stream)

    def copy(self, target: int, source: int, num_bytes: int) -> None:
        """Copy within device memory."""
        with typed_errors("copy", _cuda().Error):
            _cuda().memcpy_dtod_async(target, source, num_bytes, self._stream)

    def zero(self, target: int, num_bytes: int) -> None:
        """Fill with zeros."""
        with typed_errors("zero", _cuda().Error):
            _cuda().memset_d8_async(target, 0, num_bytes, self._stream)

    def record(self, *, is_timed: bool = False) -> PycudaEvent:
        """A new event at this place."""
        return PycudaEvent(self._stream, is_timed)

    def wait(self, event: PycudaEvent) -> None:
        """Let this stream wait for an event."""
        with typed_errors("the GPU", _cuda().Error):
            self._stream.wait_for_event(event.event)

    def synchronize(self) -> None:
        """Wait until all is done."""
        with typed_errors("the GPU", _cuda().Error):
            self._stream.synchronize()

    def captured(self, enqueue: Callable[[], None]) -> PycudaGraph:
        """A graph of what `enqueue` puts on this stream."""
        handle = _driver().CUstream(self.handle)
        mode = _driver().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        checked("the GPU's graph", _driver().cuStreamBeginCapture(handle, mode))
        try:
            enqueue()
        except BaseException:
            _driver().cuStreamEndCapture(handle)  # what it says of a broken capture is known already
            raise
        (graph,) = checked("the GPU's graph", _driver().cuStreamEndCapture(handle))
        return PycudaGraph(graph, self)


class PycudaDevice:
    """The GPU of one number, in its primary context, current on the thread that made it until the process ends."""

    def __init__(self, number: int = 0) -> None:
        with typed_errors(f"GPU {number}", _cuda().Error):
            _cuda().init()
            device = _cuda().Device(number)
            self._context = device.retain_primary_context()
            self._context.push()
            atexit.register(self._context.pop)
            attribute = _cuda().device_attribute
            self.name = str(device.name())
            major, minor = device.compute_capability()
            self.compute_capability = (int(major), int(minor))
            self.gpu = Gpu(
                min(self.compute_capability, LAST_WITHOUT_CLUSTERS),
                int(device.get_attribute(attribute.MULTIPROCESSOR_COUNT)),
                int(device.get_attribute(attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)),
            )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within it the device may be used on this thread."""
        with typed_errors("the GPU", _cuda().Error):
            self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def free_bytes(self) -> int:
        """Memory that is left."""
        with typed_errors("memory", _cuda().Error):
            return int(_cuda().mem_get_info()[0])

    def allocate(self, num_bytes: int) -> PycudaMemory:
        """Device memory."""
        return PycudaMemory(num_bytes)

    def pinned(self, num_bytes: int) -> PycudaPinned:
        """Host memory for both sides."""
        return PycudaPinned(num_bytes)

    def stream(self) -> PycudaStream:
        """A new stream."""
        return PycudaStream()

    def module(self, image: bytes) -> PycudaModule:
        """The kernels of a fatbin or a cubin."""
        return PycudaModule(image)


def open_device(number: int = 0) -> PycudaDevice:
    """The GPU of that number."""
    return PycudaDevice(number)
