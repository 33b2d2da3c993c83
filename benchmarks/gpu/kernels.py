"""Our kernels: each is compared with its definition on this GPU, then timed as a graph of launches.

The floor is the larger of its bytes by the measured bandwidth and of an empty launch, measured in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.case import Case
from benchmarks.gpu.entry import OURS, Entry, Job
from benchmarks.gpu.step_cases import advance_case, gather_case, head_case, solver_case
from benchmarks.gpu.timing import LATENTS, WARM_UP, Sizes, measured_limits, replayed_us
from benchmarks.gpu.token_cases import gumbel_case, sample_case
from illume_kernels.launch import Gpu
from illume_runtime.gpu.accelerator import Accelerator

SECTION = "kernels"
LIMITS = "limits"
LIMIT_S = 30  # most of it for the definition in numpy; a kernel that takes so long hangs
SETS = 4
GATHER_KINDS = ("float32", "float16", "int8")
HEAD_KINDS = {"float16": 2.0, "int8": 1.0, "int4": 0.5}  # bytes of a weight
GUMBEL_BATCHES = 8  # the definition of more takes long in numpy
TABLE_ROWS = 32_768


def kernel_jobs(sizes: Sizes) -> list[Job]:
    """In order of what is asked of them."""
    jobs = [limits_job()]

    def add(name: str, needs_s: float, case: Callable[[Bench], Case]) -> None:
        jobs.append(Job(name, SECTION, OURS, needs_s, LIMIT_S, partial(timed_case, name, case)))

    for batch in sizes.batches:
        for segment in sizes.segments:
            n, top_k = sizes.segment(segment)
            add(f"sample {segment} B={batch}", 3, partial(_sample, batch, n, top_k))
    for segment in sizes.segments:
        add(f"sample_group {segment} B=1", 3, partial(_group, *sizes.segment(segment)))
    for segment in sizes.segments:
        n, _ = sizes.segment(segment)
        for kind, weight_bytes in HEAD_KINDS.items():
            add(f"head_gemv {segment} {kind}", 4, partial(_head, kind, n, int(n * sizes.width * weight_bytes)))
    for kind in GATHER_KINDS:
        add(f"gather_embedding {kind}", 3, partial(_gather, kind))
    add("guidance_step", 2, _solver)
    add("advance_step", 2, lambda bench: advance_case(bench.gpu, 1, 64))
    for batch in sizes.batches:
        if batch <= GUMBEL_BATCHES:
            for segment in sizes.segments:
                n, _ = sizes.segment(segment)
                add(f"sample_gumbel {segment} B={batch}", 3, partial(_gumbel, batch, n))
    return jobs


def limits_job() -> Job:
    """What every floor is made of."""
    return Job(LIMITS, SECTION, OURS, 3, 60, limit_entries)


def limit_entries(bench: Bench) -> Iterator[Entry]:
    """The measured bandwidth and the time of an empty launch."""
    limits = measured_limits(bench.gpu, bench.sizes)
    bench.limits = limits
    facts = {"bytes_per_s": limits.bytes_per_s, "launch_us": limits.launch_us}
    yield Entry.of_times(LIMITS, OURS, [limits.launch_us], note="an empty launch", facts=facts)


def timed_case(name: str, make: Callable[[Bench], Case], bench: Bench) -> Iterator[Entry]:
    """The entry of one kernel. Raises QualityError, before anything is timed, where a value differs."""
    case = make(bench)
    case.check()
    calls = [partial(bench.gpu.launch, launch) for launch in case.launches]
    times = replayed_us(bench.gpu, calls, bench.sizes)
    case.compare()
    num_bytes = case.launches[0].num_bytes
    yield Entry.of_times(name, OURS, times, floor=bench.floor_us(num_bytes), num_bytes=num_bytes, is_checked=True)


def num_sets(num_bytes: int, sizes: Sizes) -> int:
    """How many tables of this size in turn are larger than any cache."""
    return max(1, min(8, -(-sizes.cold_bytes // max(num_bytes, 1))))


def _sample(batch: int, n: int, top_k: int, bench: Bench) -> Case:
    return sample_case(bench.gpu, batch, n, top_k, SETS)


def _group(n: int, top_k: int, bench: Bench) -> Case:
    """The sampler of GPUs before clusters, which every GPU can run."""
    return sample_case(bench.gpu, 1, n, top_k, SETS, before_clusters(bench.gpu))


def before_clusters(gpu: Accelerator) -> Gpu:
    """This GPU's facts, as if it knew no clusters."""
    return replace(gpu.device.gpu, compute_capability=min(gpu.device.gpu.compute_capability, (8, 9)))


def _gumbel(batch: int, n: int, bench: Bench) -> Case:
    return gumbel_case(bench.gpu, batch, n, SETS)


def _head(kind: str, n: int, num_bytes: int, bench: Bench) -> Case:
    return head_case(bench.gpu, kind, n, bench.sizes.width, 2, num_sets(num_bytes, bench.sizes))


def _gather(kind: str, bench: Bench) -> Case:
    rows = bench.sizes.num_tokens or TABLE_ROWS
    return gather_case(bench.gpu, kind, rows, bench.sizes.width, batch=1, num_appended=1)


def _solver(bench: Bench) -> Case:
    sizes = bench.sizes
    return solver_case(bench.gpu, LATENTS, (sizes.replays + WARM_UP + 2) * sizes.launches)
