"""The token loop and the diffusion loop of one picture: ours on each device that is there, and PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.gpu.timing import Sizes
from illume_runtime.bundle import Bundle
from illume_runtime.pipeline import ImageSampling, Pipeline
from illume_runtime.profile.trace_file import write_trace
from illume_runtime.trace import DEVICE_TRACK, Span, Tracer

PROMPT = "a red circle"


@dataclass(frozen=True, slots=True)
class Loop:
    """Milliseconds of one loop of a picture, its prefill within that of the tokens.

    `device_ms` is what the GPU was at work for it; `floor_ms` is what reading the weights of each step takes at the
    measured bandwidth. None where they are not known.
    """

    side: str
    loop: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    device_ms: float | None = None
    floor_ms: float | None = None

    @classmethod
    def of_seconds(cls, side: str, loop: str, times_s: Sequence[float], **more: float | None) -> Loop:
        """By the times of several runs."""
        low, median, high = (float(value) * 1e3 for value in np.percentile(times_s, (10, 50, 90)))
        return cls(side, loop, median, low, high, **more)


def our_loops(bundle: Bundle, device: str, sizes: Sizes, bytes_per_s: float, trace: Path | None) -> list[Loop]:
    """Of a bundle on one device, with its defaults; one picture more is traced, into a file where one is named."""
    tracer = Tracer(enabled=False)
    ends: dict[str, list[float]] = {"tokens": [], "diffusion": [], "picture": []}
    with Pipeline.load(bundle, device=device, tracer=tracer) as pipeline:
        for i in range(1 + sizes.pictures):
            start, seen = perf_counter(), dict[str, float]()
            pipeline.draw(PROMPT, sampling=ImageSampling(seed=i), on_progress=partial(_note, seen))
            end = perf_counter()
            ends["tokens"].append(seen["tokens"] - start)
            ends["diffusion"].append(seen.get("diffusion", end) - seen["tokens"])
            ends["picture"].append(end - start)
        tracer.enabled = True
        pipeline.draw(PROMPT)
        spans = tracer.spans
    if trace is not None:
        write_trace(trace, spans, {"command": "python -m benchmarks.gpu", "bundle": bundle.name, "device": device})
    on_device = [span for span in spans if span.thread == DEVICE_TRACK]
    of_loop = {
        "tokens": [span for span in on_device if span.name.startswith(("prefill", "row."))],
        "diffusion": [span for span in on_device if span.name == "denoiser"],
    }
    return [
        Loop.of_seconds(f"illume-rt {device}", loop, times[1:], **_of_device(of_loop.get(loop, []), bytes_per_s))
        for loop, times in ends.items()
    ]


def _note(seen: dict[str, float], progress: Any) -> None:
    seen[progress.phase] = perf_counter()


def _of_device(spans: Sequence[Span], bytes_per_s: float) -> dict[str, float | None]:
    if not spans:
        return {}
    moved, busy_ns = sum(span.num_bytes for span in spans), sum(span.duration_ns for span in spans)
    return {"device_ms": busy_ns / 1e6, "floor_ms": moved / bytes_per_s * 1e3}


def torch_loops(name: str, num_steps: int, sizes: Sizes, device: str = "cuda") -> Iterator[Loop]:
    """Of a published model with random weights, or a checkpoint of illume in a folder: eager and compiled.

    Weights are bfloat16, on a CPU float32.
    """
    import torch

    from benchmarks.gpu import torch_loops as loops

    model = loops.model_by_name(name, device, torch.bfloat16 if device == "cuda" else torch.float32)
    compiled = partial(torch.compile, mode="reduce-overhead", fullgraph=True)
    static = loops.StaticLoop(model, loops.drawn_from_filters, compiled)
    calls: dict[tuple[str, str], Callable[[], object]] = {
        ("PyTorch", "tokens"): partial(loops.reference_codes, model, loops.drawn_from_filters),
        ("torch.compile", "tokens"): static.codes,
        ("PyTorch", "diffusion"): partial(loops.denoised, model, model.denoise, num_steps),
        ("torch.compile", "diffusion"): partial(loops.denoised, model, compiled(model.denoise), num_steps),
    }
    for (side, loop), call in calls.items():
        times = []
        for _ in range(1 + sizes.pictures):
            start = perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(perf_counter() - start)
        yield Loop.of_seconds(side, loop, times[1:])
