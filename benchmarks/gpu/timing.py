"""How work on the GPU is timed, how much of it, and the limits of the GPU that times are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from illume_kernels.step_launch import advance_step
from illume_runtime.gpu.accelerator import Accelerator

LAUNCHES, REPLAYS, WARM_UP = 100, 20, 3
BANDWIDTH_BYTES = 256 << 20
SEGMENTS = {"semantic": (32_768, 2048), "pixel": (98_304, 6144)}  # tokens and top-k of ILLUME+
BATCHES = (1, 8, 64)
WIDTH = 2048  # of the 3B
LATENTS = 4 * 64 * 64


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    launches: int = LAUNCHES
    replays: int = REPLAYS
    bandwidth_bytes: int = BANDWIDTH_BYTES
    batches: tuple[int, ...] = BATCHES
    segments: tuple[str, ...] = tuple(SEGMENTS)
    num_tokens: int | None = None  # instead of the segments' own
    width: int = WIDTH
    cold_bytes: int = 256 << 20  # inputs in turn are at least so large: more than any cache
    pictures: int = 3  # of each loop, behind the first
    reference_tokens: int = 64  # of a picture, where forced ones and steps one by one take long
    reference_steps: int = 5  # of the diffusion

    def segment(self, name: str) -> tuple[int, int]:
        """Tokens and top-k."""
        n, top_k = SEGMENTS[name]
        n = self.num_tokens or n
        return n, min(top_k, n)


QUICK = Sizes(launches=4, replays=1, batches=(1,), pictures=1, reference_tokens=8, reference_steps=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """Measured here: bytes copied per second (read and written), and microseconds of an empty launch in a graph."""

    bytes_per_s: float
    launch_us: float

    def floor_us(self, num_bytes: int) -> float:
        """What a launch that moves so much takes at least."""
        return max(num_bytes / self.bytes_per_s * 1e6, self.launch_us)


def replayed_us(gpu: Accelerator, enqueue: Sequence[Callable[[], None]], sizes: Sizes) -> list[float]:
    """Microseconds of one of the calls, once for each replay of a graph of `sizes.launches` of them."""

    def work() -> None:
        for i in range(sizes.launches):
            enqueue[i % len(enqueue)]()

    for call in enqueue:
        call()
    graph = gpu.stream.captured(work)
    return _timed_us(graph.replay, gpu.stream.synchronize, sizes)


def called_us(call: Callable[[int], Any], num_inputs: int, wait: Callable[[], Any], sizes: Sizes) -> list[float]:
    """Microseconds of a call of another library, over as many calls as a graph of ours has launches."""

    def work() -> None:
        for i in range(sizes.launches):
            call(i % num_inputs)

    return _timed_us(work, wait, sizes)


def graphed_us(call: Callable[[int], Any], num_inputs: int, sizes: Sizes) -> list[float]:
    """Microseconds of a call in PyTorch, in a CUDA graph of as many calls as a graph of ours has launches."""
    import torch

    def work() -> None:
        for i in range(sizes.launches):
            call(i % num_inputs)

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(num_inputs):
            call(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return _timed_us(graph.replay, torch.cuda.synchronize, sizes)


def _timed_us(work: Callable[[], Any], wait: Callable[[], Any], sizes: Sizes) -> list[float]:
    times = []
    for _ in range(WARM_UP + sizes.replays):
        wait()
        start = perf_counter()
        work()
        wait()
        times.append((perf_counter() - start) / sizes.launches * 1e6)
    return times[WARM_UP:]


def measured_limits(gpu: Accelerator, sizes: Sizes) -> Limits:
    """By copies within the device's memory, and by a kernel that has next to nothing to do."""
    num_bytes = sizes.bandwidth_bytes
    source, target = (gpu.array((num_bytes,), np.uint8) for _ in range(2))
    copies = replayed_us(gpu, [lambda: gpu.stream.copy(target.address, source.address, num_bytes)], sizes)
    arrays = [gpu.array((4,), dtype) for dtype in (np.int32, np.int32, np.uint32, np.int64, np.int64)]
    addresses = [array.address for array in arrays]
    nothing = advance_step(*addresses, batch=1, num_slots=1, rows=1, num_new=0)
    launches = replayed_us(gpu, [lambda: gpu.launch(nothing)], sizes)
    return Limits(2 * num_bytes / (float(np.median(copies)) * 1e-6), float(np.median(launches)))
