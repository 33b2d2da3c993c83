"""The device through NVIDIA's cuda-core: the default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from illume_kernels.launch import Gpu, Launch
from illume_runtime.device.faults import checked, typed_errors
from illume_runtime.device.packages import package

KEPT_BYTES = 32 << 20  # what the pool keeps of memory that was given up, so that small arrays are quickly there
# cuda-core's own errors derive from Exception alone and are not exported; what else it raises is RuntimeError.
ERRORS = (Exception,)


def _core() -> Any:
    return package("cuda.core", "cuda")


def _driver() -> Any:
    return package("cuda.bindings.driver", "cuda")


class CudaCoreMemory:
    """Stream-ordered memory of a pool, or pinned memory of the host."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self.address = int(buffer.handle)
        self.num_bytes = int(buffer.size)

    @property
    def array(self) -> NDArray[np.uint8]:
        """Pinned memory as the host sees it."""
        view: NDArray[np.uint8] = np.from_dlpack(self._buffer).view(np.uint8)
        return view


class CudaCoreEvent:
    """An event, with a time where it was asked for."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def synchronize(self) -> None:
        """Wait until the stream has come here."""
        with typed_errors("the GPU", *ERRORS):
            self.event.sync()

    def ms_since(self, earlier: CudaCoreEvent) -> float:
        """Milliseconds on the device from an earlier event."""
        with typed_errors("the GPU", *ERRORS):
            return float(self.event - earlier.event)


class CudaCoreModule:
    """Kernels by name, looked up once."""

    def __init__(self, code: Any, number: int) -> None:
        self._code, self._number = code, number
        self._kernels: dict[str, Any] = {}
        self._shared: dict[str, int] = {}

    def kernel(self, launch: Launch) -> Any:
        """The kernel, allowed the shared memory that the launch asks for."""
        kernel = self._kernels.get(launch.symbol)
        if kernel is None:
            kernel = self._kernels[launch.symbol] = self._code.get_kernel(launch.symbol)
        if launch.shared_bytes > self._shared.get(launch.symbol, 0):
            driver = _driver()  # cuda-core reads this attribute and does not set it
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            number = driver.CUdevice(self._number)
            checked(launch.symbol, driver.cuKernelSetAttribute(attribute, launch.shared_bytes, kernel.handle, number))
            self._shared[launch.symbol] = launch.shared_bytes
        return kernel


class CudaCoreGraph:
    """An executable graph."""

    def __init__(self, captured: Any, stream: Any) -> None:
        self._graph, self._stream = captured, stream

    def replay(self) -> None:
        """Launch it on the stream that it was captured from."""
        with typed_errors("the GPU's graph", *ERRORS):
            self._graph.launch(self._stream)


class CudaCoreStream:
    """A stream that does not wait for the default one."""

    def __init__(self, device: Any) -> None:
        self.stream = device.create_stream()
        self.handle = int(self.stream.handle)
        self._target = self.stream  # a graph builder while capturing

    def launch(self, module: CudaCoreModule, launch: Launch) -> None:
        """Run a kernel. cuda-core counts a grid with clusters in clusters, we in CTAs."""
        x, y, z = launch.grid
        with typed_errors(launch.symbol, *ERRORS):
            config = _core().LaunchConfig(
                grid=(x // launch.cluster, y, z),
                cluster=(launch.cluster, 1, 1) if launch.cluster > 1 else None,
                block=launch.block,
                shmem_size=launch.shared_bytes,
            )
            _core().launch(self._target, config, module.kernel(launch), *launch.arguments)

    def upload(self, target: int, source: NDArray[np.generic]) -> None:
        """Copy a contiguous host array to device memory."""
        self._call("upload", _driver().cuMemcpyHtoDAsync, target, source.ctypes.data, source.nbytes)

    def download(self, target: NDArray[np.generic], source: int) -> None:
        """Copy device memory to a contiguous host array."""
        self._call("download", _driver().cuMemcpyDtoHAsync, target.ctypes.data, source, target.nbytes)

    def copy(self, target: int, source: int, num_bytes: int) -> None:
        """Copy within device memory."""
        self._call("copy", _driver().cuMemcpyDtoDAsync, target, source, num_bytes)

    def zero(self, target: int, num_bytes: int) -> None:
        """Fill with zeros."""
        self._call("zero", _driver().cuMemsetD8Async, target, 0, num_bytes)

    def record(self, *, is_timed: bool = False) -> CudaCoreEvent:
        """A new event at this place."""
        with typed_errors("the GPU", *ERRORS):
            return CudaCoreEvent(self.stream.record(options=_core().EventOptions(timing_enabled=is_timed)))

    def wait(self, event: CudaCoreEvent) -> None:
        """Let this stream wait for an event."""
        with typed_errors("the GPU", *ERRORS):
            self.stream.wait(event.event)

    def synchronize(self) -> None:
        """Wait until all is done."""
        with typed_errors("the GPU", *ERRORS):
            self.stream.sync()

    def captured(self, enqueue: Callable[[], None]) -> CudaCoreGraph:
        """A graph of what `enqueue` puts on this stream."""
        with typed_errors("the GPU's graph", *ERRORS):
            builder = self.stream.create_graph_builder()
            builder.begin_building("thread_local")
        self._target = builder
        try:
            enqueue()
        except BaseException:
            self._target = self.stream
            with suppress(*ERRORS):  # what it says of a broken capture is known already
                builder.end_building()
            raise
        self._target = self.stream
        with typed_errors("the GPU's graph", *ERRORS):
            return CudaCoreGraph(builder.end_building().complete(), self.stream)

    def _call(self, what: str, function: Callable[..., Any], *arguments: int) -> None:
        checked(what, function(*arguments, self.stream.handle))


class CudaCoreDevice:
    """The GPU of one number, in its primary context, current on the thread that made it."""

    def __init__(self, number: int = 0) -> None:
        self._number = number
        with typed_errors(f"GPU {number}", *ERRORS):
            self._device = _core().Device(number)
            self._device.set_current()
            self._allocating = self._device.create_stream()
            self._pool = self._own_pool()
            capability = self._device.compute_capability
            properties = self._device.properties
            self.name = str(self._device.name)
            self.compute_capability = (int(capability.major), int(capability.minor))
            self.gpu = Gpu(
                self.compute_capability,
                int(properties.multiprocessor_count),
                int(properties.max_shared_memory_per_block_optin),
            )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within it the device may be used on this thread, and stays current there."""
        with typed_errors("the GPU", *ERRORS):
            _core().Device(self._number).set_current()
        yield

    def _own_pool(self) -> Any:
        """The device's own pool would keep all that was ever taken; None where the GPU has no pools."""
        driver = _driver()
        attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED
        (has_pools,) = checked("GPU", driver.cuDeviceGetAttribute(attribute, driver.CUdevice(self._number)))
        if not has_pools:
            return None
        pool = _core().DeviceMemoryResource(self._device, _core().DeviceMemoryResourceOptions())
        threshold = driver.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        handle = driver.CUmemoryPool(int(pool.handle))
        checked("memory", driver.cuMemPoolSetAttribute(handle, threshold, driver.cuuint64_t(KEPT_BYTES)))
        return pool

    def free_bytes(self) -> int:
        """Memory that is left, with what was given up lately: the pool lets go of it when it is waited for."""
        with typed_errors("memory", *ERRORS):
            self._allocating.sync()
        free, _ = checked("memory", _driver().cuMemGetInfo())
        return int(free)

    def allocate(self, num_bytes: int) -> CudaCoreMemory:
        """Device memory, there when this returns."""
        with typed_errors(f"{num_bytes / 1e6:.0f} MB", *ERRORS):
            buffer = (self._pool or self._device).allocate(num_bytes, stream=self._allocating)
            self._allocating.sync()
            return CudaCoreMemory(buffer)

    def pinned(self, num_bytes: int) -> CudaCoreMemory:
        """Host memory for both sides."""
        with typed_errors(f"{num_bytes / 1e6:.0f} MB of pinned memory", *ERRORS):
            return CudaCoreMemory(_core().LegacyPinnedMemoryResource().allocate(num_bytes))

    def stream(self) -> CudaCoreStream:
        """A new stream."""
        with typed_errors("the GPU", *ERRORS):
            return CudaCoreStream(self._device)

    def module(self, image: bytes) -> CudaCoreModule:
        """The kernels of a fatbin or a cubin."""
        is_cubin = image[:4] == b"\x7fELF"
        with typed_errors("kernels", *ERRORS):
            make = _core().ObjectCode.from_cubin if is_cubin else _core().ObjectCode.from_fatbin
            code = make(image)
            _ = code.handle  # loads it: an image that does not fit is an error now
            return CudaCoreModule(code, self._number)


def open_device(number: int = 0) -> CudaCoreDevice:
    """The GPU of that number."""
    return CudaCoreDevice(number)
