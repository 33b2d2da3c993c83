"""Our kernels and loops on the GPU of this machine, beside what else can be had there.

    python -m benchmarks.gpu [--bundle BUNDLE --device cuda|tensorrt] [--implementation cuda-core|pycuda] [--quick]

Prints a table and, as its last line, one JSON object; writes benchmarks/results/gpu-NAME.json. Peers that are not
installed are left out and named. Without a GPU it says so in one line and ends with 3.

A kernel is timed as a graph of LAUNCHES launches over SETS different inputs, replayed REPLAYS times; its floor is the
larger of its bytes by the measured bandwidth and of an empty launch, measured in the same way.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from illume_kernels import oracle
from illume_kernels.guidance import guided
from illume_kernels.launch import Launch, Segment
from illume_kernels.params import SampleParams
from illume_kernels.rows import rows_from_params
from illume_kernels.sample_plan import sample_plan
from illume_kernels.step_launch import advance_step, guidance_step
from illume_runtime.errors import IllumeError, QualityError
from illume_runtime.files import atomic_write
from illume_runtime.gpu.accelerator import Accelerator, open_accelerator

FOLDER = Path(__file__).parent / "results"
LAUNCHES, SETS, REPLAYS, WARM_UP = 100, 4, 20, 3
BANDWIDTH_BYTES = 256 << 20
SEGMENTS = {"semantic": (32_768, 2048), "pixel": (98_304, 6144)}  # tokens and top-k of ILLUME+
BATCHES = (1, 8, 64)
TOP_P, GUIDANCE = 0.8, 2.0
LATENTS = 4 * 64 * 64


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


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    launches: int = LAUNCHES
    replays: int = REPLAYS
    bandwidth_bytes: int = BANDWIDTH_BYTES
    batches: tuple[int, ...] = BATCHES
    segments: tuple[str, ...] = tuple(SEGMENTS)
    num_tokens: int | None = None  # instead of the segments' own


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


def sampler_launches(gpu: Accelerator, batch: int, n: int, top_k: int) -> tuple[list[Launch], list[Any], list[Any]]:
    """Launches over SETS inputs, what they work on, and (logits, token) of each, for the check and for peers."""
    plan = sample_plan(gpu.device.gpu, batch, n)
    params = SampleParams.broadcast(batch, top_k=top_k, top_p=TOP_P, request=np.arange(batch))
    rows = gpu.uploaded(rows_from_params(params, guidance=GUIDANCE, uncond_row=np.arange(batch, 2 * batch)))
    workspace, keys = (gpu.array((size,), np.uint8) for size in (plan.workspace_bytes, plan.keys_bytes))
    launches, kept, cases = [], [rows, workspace, keys], []
    for seed in range(SETS):
        values = (np.random.default_rng(seed).standard_normal((2 * batch, n)) * 3).astype(np.float16)
        logits, step = gpu.uploaded(values), gpu.array((batch,), np.uint32)
        token = gpu.array((batch,), np.int32)
        launch = plan.launch(
            Segment(logits.address, "float16", n, 0, n),
            rows.address,
            step.address,
            token.address,
            workspace=workspace.address if plan.workspace_bytes else 0,
            keys=keys.address if plan.keys_bytes else 0,
            guided=True,
        )
        gpu.launch(launch)
        got = gpu.downloaded(token)
        both = values.astype(np.float32)
        expected = oracle.sample(guided(both[:batch], both[batch:], GUIDANCE), params.at_step(0))
        if not np.array_equal(got, expected):
            raise QualityError(f"sample: got {got.tolist()}, the definition gives {expected.tolist()}; file a fault")
        launches.append(launch)
        kept += [logits, step, token]
        cases.append(values)
    return launches, kept, cases


def kernel_timings(gpu: Accelerator, limits: Limits, sizes: Sizes) -> Iterator[Timing]:
    for name in sizes.segments:
        n, top_k = SEGMENTS[name]
        n = sizes.num_tokens or n
        for batch in sizes.batches:
            launches, kept, cases = sampler_launches(gpu, batch, n, min(top_k, n))
            calls = [lambda launch=launch: gpu.launch(launch) for launch in launches]
            label = f"{name} B={batch}"
            yield timing(f"{label} sample", replayed_us(gpu, calls, sizes), launches[0].num_bytes, limits)
            del kept
            for peer, call in torch_peers(cases, min(top_k, n)):
                yield timing(f"{label} {peer}", called_us(call, sizes), launches[0].num_bytes, limits)
    yield solver_timing(gpu, limits, sizes)


def solver_timing(gpu: Accelerator, limits: Limits, sizes: Sizes) -> Timing:
    x, previous, e, model_input = (gpu.array((2, LATENTS), np.float32) for _ in range(4))
    table = gpu.uploaded(
        np.tile(np.array([0, 1, 1, 0.1, 0, 1], np.float32), (4 * (sizes.replays + 9) * sizes.launches, 1))
    )
    state = gpu.array((2,), np.uint32)
    launch = guidance_step(
        gpu.device.gpu,
        *(array.address for array in (x, previous, e, model_input, table, state)),
        dtype="float32",
        batch=1,
        num_elements=LATENTS,
        input_stride=LATENTS,
        guidance=GUIDANCE,
        is_guided=True,
    )
    return timing("guidance_step", replayed_us(gpu, [lambda: gpu.launch(launch)], sizes), launch.num_bytes, limits)


def torch_peers(cases: list[Any], top_k: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The same choice in PyTorch, eager and compiled, and in CuPy and FlashInfer, as far as they are installed."""
    torch = _module("torch")
    if torch is None or not torch.cuda.is_available():
        return
    inputs = [torch.from_numpy(values).cuda() for values in cases]
    batch = len(inputs[0]) // 2

    def reference(logits: Any) -> Any:
        cond, uncond = torch.log_softmax(logits[:batch], -1), torch.log_softmax(logits[batch:], -1)
        scores = uncond + GUIDANCE * (cond - uncond)
        values, indices = torch.topk(scores, top_k)
        shares = torch.softmax(values.float(), -1)
        shares = torch.where(shares.cumsum(-1) - shares <= TOP_P, shares, 0.0)
        return indices.gather(-1, torch.multinomial(shares, 1))

    compiled = torch.compile(reference, mode="max-autotune-no-cudagraphs")
    for name, function in (("torch", reference), ("torch.compile", compiled)):
        yield name, _in_turn(function, inputs)
    cupy = _module("cupy")
    if cupy is not None:
        arrays = [cupy.from_dlpack(values) for values in inputs]
        yield "CuPy sort", _in_turn(lambda logits: cupy.sort(logits[:batch], axis=-1), arrays)
    flashinfer = _module("flashinfer")
    if flashinfer is not None:

        def fused(logits: Any) -> Any:
            scores = logits[batch:] + GUIDANCE * (logits[:batch] - logits[batch:])
            return flashinfer.sampling.top_k_top_p_sampling_from_logits(scores.float(), top_k, TOP_P)

        yield "FlashInfer", _in_turn(fused, inputs)


def called_us(call: Callable[[], Any], sizes: Sizes) -> list[float]:
    """Microseconds of a call of another library, over as many calls as a graph of ours has launches."""
    torch = _module("torch")
    times = []
    for _ in range(WARM_UP + sizes.replays):
        torch.cuda.synchronize()
        start = perf_counter()
        for _ in range(sizes.launches):
            call()
        torch.cuda.synchronize()
        times.append((perf_counter() - start) / sizes.launches * 1e6)
    return times[WARM_UP:]


def loop_timings(bundle: str, device: str, sizes: Sizes) -> dict[str, float]:
    """Milliseconds of the parts of a drawing of a bundle, the median over `sizes.replays`."""
    from illume_runtime.pipeline import ImageSampling, Pipeline

    ends: dict[str, list[float]] = {"tokens": [], "diffusion": [], "whole": []}
    with Pipeline.load(bundle, device=device) as pipeline:
        for i in range(WARM_UP + sizes.replays):
            start, seen = perf_counter(), {}
            pipeline.draw(
                "a red circle",
                sampling=ImageSampling(seed=i),
                on_progress=lambda progress, seen=seen: seen.__setitem__(progress.phase, perf_counter()),
            )
            end = perf_counter()
            ends["tokens"].append(seen["tokens"] - start)
            ends["diffusion"].append(seen.get("diffusion", end) - seen["tokens"])
            ends["whole"].append(end - start)
    return {f"{name}_ms": float(np.median(times[WARM_UP:])) * 1e3 for name, times in ends.items()}


def measured(gpu: Accelerator, sizes: Sizes) -> dict[str, Any]:
    """All figures of the kernels; prints each line as it is found."""
    limits = measured_limits(gpu, sizes)
    print(
        f"{gpu.device.name}: {limits.bytes_per_s / 1e9:.0f} GB/s copied, {limits.launch_us:.2f} us for an empty launch"
    )
    print(f"{'':<34}{'median':>10}{'p10':>10}{'p90':>10}{'floor':>10}{'ratio':>8}")
    found = []
    for one in kernel_timings(gpu, limits, sizes):
        print(
            f"{one.name:<34}{one.median_us:>10.2f}{one.p10_us:>10.2f}{one.p90_us:>10.2f}"
            f"{one.floor_us:>10.2f}{one.ratio:>8.2f}"
        )
        found.append({name: getattr(one, name) for name in Timing.__dataclass_fields__} | {"ratio": one.ratio})
    return {
        "gpu": gpu.device.name,
        "compute_capability": list(gpu.device.compute_capability),
        "copied_bytes_per_s": limits.bytes_per_s,
        "empty_launch_us": limits.launch_us,
        "launches": sizes.launches,
        "replays": sizes.replays,
        "kernels": found,
        "peers_missing": [name for name in ("torch", "cupy", "flashinfer") if _module(name) is None],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--bundle", help="also time drawings of this bundle")
    parser.add_argument("--device", choices=("cuda", "tensorrt"), default="tensorrt", help="what draws (tensorrt)")
    parser.add_argument("--implementation", choices=("cuda-core", "pycuda"), default="cuda-core")
    parser.add_argument("--quick", action="store_true", help="each once; writes nothing")
    given = parser.parse_args(arguments)
    sizes = Sizes(launches=4, replays=1, batches=(1,)) if given.quick else Sizes()
    try:
        results = measured(open_accelerator(given.implementation), sizes)
        if given.bundle:
            results["drawing"] = {"device": given.device, **loop_timings(given.bundle, given.device, sizes)}
    except IllumeError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return error.exit_code
    if not given.quick:
        name = re.sub(r"[^a-z0-9]+", "-", results["gpu"].lower()).strip("-")
        with atomic_write(FOLDER / f"gpu-{name}.json") as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results))
    return 0


def _in_turn(function: Callable[[Any], Any], inputs: list[Any]) -> Callable[[], Any]:
    """Calls with one input after the other."""
    state = {"i": 0}

    def call() -> Any:
        state["i"] = (state["i"] + 1) % len(inputs)
        return function(inputs[state["i"]])

    return call


def _module(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


if __name__ == "__main__":
    sys.exit(main())
