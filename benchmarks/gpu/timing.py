"""What is measured, how it is timed, and the limits of the GPU that times are held against."""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    launches: int = LAUNCHES
    replays: int = REPLAYS
    bandwidth_bytes: int = BANDWIDTH_BYTES
    batches: tuple[int, ...] = BATCHES
    segments: tuple[str, ...] = tuple(SEGMENTS)
    num_tokens: int | None = None  # instead of the segments' own
    pictures: int = 5  # of each loop, behind the first


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of one launch or call."""

    name: str
    median_us: float
    p10_us: float
    p90_us: float
    num_bytes: int
    floor_us: float

    @property
    def ratio(self) -> float:
        """How far from the floor."""
        return self.median_us / self.floor_us if self.floor_us else float("nan")


@dataclass(frozen=True, slots=True)
class Limits:
    """Measured here: bytes copied per second (read and written), and microseconds of an empty launch in a graph."""

    bytes_per_s: float
    launch_us: float

    def floor_us(self, num_bytes: int) -> float:
        """What a launch that moves so much takes at least."""
        return max(num_bytes / self.bytes_per_s * 1e6, self.launch_us)


def replayed_us(gpu: Accelerator, enqueue: list[Callable[[], None]], sizes: Sizes) -> list[float]:
    """Microseconds of one of the calls, once for each replay of a graph of `sizes.launches` of them."""

    def work() -> None:
        for i in range(sizes.launches):
            enqueue[i % len(enqueue)]()

    for call in enqueue:
        call()
    graph = gpu.stream.captured(work)
    times = []
    for _ in range(WARM_UP + sizes.replays):
        gpu.stream.synchronize()
        start = perf_counter()
        graph.replay()
        gpu.stream.synchronize()
        times.append((perf_counter() - start) / sizes.launches * 1e6)
    return times[WARM_UP:]


def timing(name: str, times_us: list[float], num_bytes: int, limits: Limits | None) -> Timing:
    low, median, high = (float(value) for value in np.percentile(times_us, (10, 50, 90)))
    return Timing(name, median, low, high, num_bytes, limits.floor_us(num_bytes) if limits else 0.0)


def measured_limits(gpu: Accelerator, sizes: Sizes) -> Limits:
    num_bytes = sizes.bandwidth_bytes
    source, target = (gpu.array((num_bytes,), np.uint8) for _ in range(2))
    copies = replayed_us(gpu, [lambda: gpu.stream.copy(target.address, source.address, num_bytes)], sizes)
    arrays = [gpu.array((4,), dtype) for dtype in (np.int32, np.int32, np.uint32, np.int64, np.int64)]
    addresses = [array.address for array in arrays]
    nothing = advance_step(*addresses, batch=1, num_slots=1, rows=1, num_new=0)
    launches = replayed_us(gpu, [lambda: gpu.launch(nothing)], sizes)
    return Limits(2 * num_bytes / (float(np.median(copies)) * 1e-6), float(np.median(launches)))


def called_us(call: Callable[[], Any], sizes: Sizes) -> list[float]:
    """Microseconds of a call of another library, over as many calls as a graph of ours has launches."""
    import torch

    times = []
    for _ in range(WARM_UP + sizes.replays):
        torch.cuda.synchronize()
        start = perf_counter()
        for _ in range(sizes.launches):
            call()
        torch.cuda.synchronize()
        times.append((perf_counter() - start) / sizes.launches * 1e6)
    return times[WARM_UP:]
