"""A model of full size on this machine: a picture and a description, beside what they take at the least.

    illume export --random-weights illume-plus-3b -o build/illume-plus-3b.bundle
    python -m benchmarks.full_size build/illume-plus-3b.bundle --memory 20GiB

Each request runs in a process of its own: a draft picture, a description, and where asked for a picture that the
diffusion model draws in `--steps`. `--tokens` stops a draft after so many codes; the draft decoder then gets codes of
zeros. `--processor-time` counts the time of the processor instead of the wall's: for one thread on a machine
that does other work. The least time of a stage is what it moves over the machine's measured read bandwidth; its bytes
are those of the weights as they lie in memory and of the cache. Beside the measured peak stands that of `illume plan`.
Written to `benchmarks/results/full-size/MODEL-MACHINE.json`, each request with its limit of memory on its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import FOLDER, name_of_machine
from illume_runtime import trace
from illume_runtime.bundle import Bundle
from illume_runtime.cli.parser import memory_size
from illume_runtime.detokenizing import pixels_of_codes
from illume_runtime.errors import Cancelled
from illume_runtime.files import atomic_write
from illume_runtime.machine import peak_memory_bytes, this_machine
from illume_runtime.memory import limit_memory
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling
from illume_runtime.profile.picture import measuring_picture
from illume_runtime.residency import RESIDENCIES
from illume_runtime.trace import Span, Tracer

KINDS = {"draw": "draw draft", "describe": "describe", "standard": "draw standard"}  # of this file, of illume plan
USUAL = ("draw", "describe")
PROMPT, DRAFT = "a lighthouse at dusk", ImageSampling(quality="draft")
BUFFER_BYTES, NUM_TRIES = 256 << 20, 4


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--memory", default="20GiB", help="what a process may take")
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, help="codes of a picture (all), tokens of a description (32)")
    parser.add_argument("--residency", choices=RESIDENCIES, default="all")
    parser.add_argument("--steps", type=int, default=2, help="of the diffusion (2)")
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--requests", nargs="*", choices=KINDS, default=USUAL)
    parser.add_argument("--here", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measured(args)))
        return
    words = ["plan", str(args.bundle), "--device", "cpu", "--memory", args.memory, "--size", args.size, "--json"]
    plan = json_of("illume_runtime", *words)
    planned = plan["mapped"][f"{memory_size(args.memory) / (1 << 30):g} GiB"]
    path = FOLDER / "full-size" / f"{plan['name']}-{name_of_machine(this_machine())}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"model": plan["name"]}
    for kind in args.requests:
        found = json_of("benchmarks.full_size", *sys.argv[1:], "--here", kind)
        plan_of_kind = planned[KINDS[kind]][args.residency]
        found["planned_peak_bytes"] = plan_of_kind["peak_bytes"]
        found["planned_to_measured"] = round(found["planned_peak_bytes"] / found["peak_memory_bytes"], 3)
        found["mapped_stages"] = plan_of_kind["stages"]
        results[f"{kind}, {found['precision']}, {args.memory}, {args.residency}"] = found
        print(text_of(kind, found), flush=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(path)


def json_of(module: str, *words: str) -> dict[str, Any]:
    """What a module prints as JSON, in a new process."""
    done = subprocess.run([sys.executable, "-m", module, *words], check=True, stdout=subprocess.PIPE, text=True)
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """One request in this process."""
    clock = time.process_time_ns if args.processor_time else time.perf_counter_ns
    trace.perf_counter_ns = clock  # type: ignore[attr-defined]
    limit_memory(memory_size(args.memory))
    tracer = Tracer()
    bytes_per_s = read_bytes_per_s(clock)
    bundle = Bundle.open(args.bundle, verify=False)
    pipeline = Pipeline.load(bundle, threads=args.threads, tracer=tracer, residency=args.residency)
    start = clock()
    {"draw": draw, "describe": describe, "standard": draw_standard}[args.here](pipeline, args)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "precision": bundle.manifest.precision,
        "memory": args.memory,
        "residency": args.residency,
        "size": args.size,
        "threads": args.threads,
        "tokens": args.tokens,
        "steps": args.steps if args.here == "standard" else None,
        "clock": "processor" if args.processor_time else "wall",
        "request_ms": round((clock() - start) / 1e6, 1),
        "read_gb_per_s": round(bytes_per_s / 1e9, 2),
        "peak_memory_bytes": peak_memory_bytes(),
        "stages": rows(tracer.spans, bytes_per_s),
    }


def draw(pipeline: Pipeline, args: argparse.Namespace) -> None:
    """A draft picture, or its first codes and then a picture of zeros."""
    asked = [0]

    def cancel() -> bool:
        asked[0] += 1
        return args.tokens is not None and asked[0] > args.tokens

    try:
        pipeline.draw(PROMPT, size=args.size, sampling=DRAFT, cancel=cancel)
    except Cancelled:
        model = pipeline._model
        schedule = model.schedules[args.size]
        for segment in schedule.segments[1:]:  # levels that it may not have come to
            model.engine.logits(segment.name, np.zeros((2, model.bundle.model.hidden_size), np.float32), 2.0)
        codes = tuple(np.zeros(grid, np.int64) for grid in schedule.grids)
        pixels_of_codes(model.stages, schedule, [codes], [0], DRAFT)


def draw_standard(pipeline: Pipeline, args: argparse.Namespace) -> None:
    """A picture of the diffusion model, in fewer steps than it takes by default."""
    pipeline.draw(PROMPT, size=args.size, sampling=ImageSampling(quality="standard", steps=args.steps))


def describe(pipeline: Pipeline, args: argparse.Namespace) -> None:
    """A description of the built-in picture."""
    pipeline.describe(measuring_picture(), sampling=TextSampling(max_tokens=args.tokens or 32))


def read_bytes_per_s(clock: Any) -> float:
    """The best of a few tries to read a buffer larger than any cache, with one thread."""
    buffer = np.ones(BUFFER_BYTES // 4, np.float32)
    best_ns = min(timed(clock, buffer) for _ in range(NUM_TRIES))
    return BUFFER_BYTES / best_ns * 1e9


def timed(clock: Any, buffer: Any) -> int:
    """Nanoseconds of one reading."""
    start: int = clock()
    buffer.max()
    return int(clock() - start)


def rows(spans: list[Span], bytes_per_s: float) -> list[dict[str, Any]]:
    """Each stage with how many times its least time a call took."""
    groups: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        groups[span.name].append(span)
    found = []
    for name, group in groups.items():
        times_ms = [span.self_ns / 1e6 for span in group]
        median, least = float(np.median(times_ms)), group[-1].num_bytes / bytes_per_s * 1e3
        found.append(
            {
                "stage": name,
                "calls": len(group),
                "median_ms": round(median, 2),
                "min_ms": round(min(times_ms), 2),
                "sum_ms": round(sum(times_ms), 1),
                "moved_bytes": group[-1].num_bytes,
                "times_the_least": round(median / least, 2) if least > 0.1 else None,
            }
        )
    return found


def text_of(kind: str, found: dict[str, Any]) -> str:
    """A table for people."""
    lines = [
        f"{kind}: peak {found['peak_memory_bytes'] / 1e9:.2f} GB, planned {found['planned_peak_bytes'] / 1e9:.2f}; "
        f"mapped: {', '.join(found['mapped_stages']) or 'none'}; reads {found['read_gb_per_s']} GB/s"
    ]
    for row in found["stages"]:
        times = row["times_the_least"]
        least = "" if times is None else f"{times:.2f} x {row['moved_bytes'] / 1e9:.2f} GB"
        lines.append(f"  {row['stage']:<18}{row['calls']:>5}{row['median_ms']:>11.2f} ms  {least}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
