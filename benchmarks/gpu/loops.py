"""The token loop and the diffusion loop of one picture by the runtime, on a device for which it has all it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.entry import OURS, Entry, Job
from benchmarks.gpu.targets import TOKENS
from illume_runtime.bundle import Bundle
from illume_runtime.pipeline import ImageSampling, Pipeline
from illume_runtime.profile.trace_file import write_trace
from illume_runtime.trace import DEVICE_TRACK, Span, Tracer

PROMPT = "a red circle"
DEVICES = ("tensorrt", "cuda")


def our_jobs(devices: Sequence[str]) -> list[Job]:
    """One for each device; each has a process of its own."""
    return [
        Job("picture", f"loops on {device}", f"{OURS} {device}", 20, 150, partial(our_loops, device))
        for device in devices
    ]


def our_loops(device: str, bench: Bench) -> Iterator[Entry]:
    """Of the bundle on one device, with its defaults; one picture more is traced, into a file where one is named."""
    bundle, tracer = Bundle.open(bench.options.bundle), Tracer(enabled=False)
    times: dict[str, list[float]] = {TOKENS: [], "diffusion": [], "picture": []}
    num_steps = 0
    with Pipeline.load(bundle, device=device, tracer=tracer) as pipeline:
        for i in range(1 + bench.sizes.pictures):
            seen: dict[str, Any] = {}
            start = perf_counter()
            pipeline.draw(PROMPT, sampling=ImageSampling(seed=i), on_progress=partial(_note, seen))
            end = perf_counter()
            num_steps = seen["total"]
            if i:
                times[TOKENS].append((seen["tokens"] - start) * 1e3)
                times["diffusion"].append((seen.get("diffusion", end) - seen["tokens"]) * 1e3)
                times["picture"].append((end - start) * 1e3)
            if i and bench.left_s < 4 * (end - start):
                break
        tracer.enabled = True
        pipeline.draw(PROMPT)
        spans = tracer.spans
    if bench.options.trace is not None:
        facts = {"command": "python -m benchmarks.gpu", "bundle": bundle.name, "device": device}
        write_trace(Path(bench.options.trace), spans, facts)
    on_device = [span for span in spans if span.thread == DEVICE_TRACK]
    of_loop = {
        TOKENS: [span for span in on_device if span.name.startswith(("prefill", "row."))],
        "diffusion": [span for span in on_device if span.name == "denoiser"],
    }
    bytes_per_s = bench.limits.bytes_per_s if bench.limits else None
    for loop, loop_ms in times.items():
        moved, busy_ms = _of_device(of_loop.get(loop, []))
        floor = moved / bytes_per_s * 1e3 if moved and bytes_per_s else None
        facts_of_loop: dict[str, float | None] = {"device_ms": busy_ms}
        if loop == TOKENS:
            is_same_model = bench.options.model is not None and Path(bench.options.model).name == bundle.name
            facts_of_loop |= {"is_same_model": float(is_same_model), "num_steps": num_steps}
            facts_of_loop["step_ms"] = sorted(loop_ms)[len(loop_ms) // 2] / num_steps
        note = f"{bundle.name}, one picture"
        side = f"{OURS} {device}"
        yield Entry.of_times(loop, side, loop_ms, unit="ms", floor=floor, note=note, facts=facts_of_loop)


def _note(seen: dict[str, Any], progress: Any) -> None:
    seen[progress.phase] = perf_counter()
    if progress.phase == "tokens":
        seen["total"] = progress.total


def _of_device(spans: Sequence[Span]) -> tuple[int, float | None]:
    """Bytes that were moved, and milliseconds in which the GPU was at work."""
    busy_ms = sum(span.duration_ns for span in spans) / 1e6 if spans else None
    return sum(span.num_bytes for span in spans), busy_ms
