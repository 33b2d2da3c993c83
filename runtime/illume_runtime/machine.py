"""What this machine is and what it can reach: cores, memory, measured bandwidth and float32 rate.

The limits are measured, not looked up: a reduction over a buffer larger than any cache gives the read bandwidth, and
one large MatMul in ONNX Runtime, the engine that the stages run on, gives the compute limit. Together under a second.
"""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import numpy as np

from illume_runtime.protobuf import field

BUFFER_BYTES = 256 * 2**20
MATMUL_SIZE = 1024
NUM_TRIES = 4


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts that stand beside every measurement. `memory_bytes` is 0 where the system does not tell."""

    system: str
    cpu: str
    cores: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """The best of a few tries with `threads` threads: bytes read per second and float32 operations per second."""

    threads: int
    memory_bytes_per_s: float
    float32_flops_per_s: float


def this_machine() -> Machine:
    """Cores are those this process may use, memory is what its control group allows."""
    return Machine(f"{platform.system()} {platform.machine()}", _cpu_name(), usable_cores(), _memory_bytes())


def usable_cores() -> int:
    """Cores that the scheduler gives to this process (affinity and control group)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _text_of("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def peak_memory_bytes() -> int:
    """The largest resident size that this process has had; 0 where the system does not tell."""
    for line in _text_of("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


@lru_cache(maxsize=4)
def measured_limits(threads: int) -> MachineLimits:
    """The limits with this many threads, measured once per process."""
    return MachineLimits(threads, _read_bytes_per_s(threads), _matmul_flops_per_s(threads))


def _read_bytes_per_s(threads: int) -> float:
    buffer = np.ones(BUFFER_BYTES // 4, np.float32)
    parts = np.array_split(buffer, threads)
    best_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(NUM_TRIES):
            start = perf_counter()
            list(pool.map(np.max, parts))
            best_s = min(best_s, perf_counter() - start)
    return BUFFER_BYTES / best_s


def _matmul_flops_per_s(threads: int) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(matmul_model(), options, providers=["CPUExecutionProvider"])
    square = np.ones((MATMUL_SIZE, MATMUL_SIZE), np.float32)
    best_s = float("inf")
    for _ in range(NUM_TRIES):
        start = perf_counter()
        session.run(None, {"a": square, "b": square})
        best_s = min(best_s, perf_counter() - start)
    return 2 * MATMUL_SIZE**3 / best_s


def matmul_model() -> bytes:
    """An ONNX file with the one node c = MatMul(a, b) in float32: protobuf written by hand, onnx is not needed here.

    Field numbers are those of onnx.proto (ModelProto 1, 7, 8; GraphProto 1, 2, 11, 12; NodeProto 1, 2, 4).
    """
    node = field(1, b"a") + field(1, b"b") + field(2, b"c") + field(4, b"MatMul")
    graph = field(1, node) + field(2, b"matmul")
    graph += field(11, _matrix("a", "M", "K")) + field(11, _matrix("b", "K", "N")) + field(12, _matrix("c", "M", "N"))
    return field(1, 8) + field(7, graph) + field(8, field(2, 17))


def _matrix(name: str, *dimensions: str) -> bytes:
    shape = b"".join(field(1, field(2, dimension.encode())) for dimension in dimensions)
    return field(1, name.encode()) + field(2, field(1, field(1, 1) + field(2, shape)))


def _cpu_name() -> str:
    for line in _text_of("/proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    total = 0
    for line in _text_of("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
    limit = _text_of("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() and total else total


def _text_of(path: str) -> str:
    """The content of a small system file, empty where this system has no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
