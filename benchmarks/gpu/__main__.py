"""Everything that can be measured on the GPU of this machine.

    python -m benchmarks.gpu [--bundle BUNDLE [--device cuda --device tensorrt]] [--model NAME|CHECKPOINT] [--quick]

Prints a table and, as its last line, one JSON object; writes benchmarks/results/gpu-NAME.json. Peers that are not
installed are left out and named. Without a GPU it says so in one line and ends with 3.

`--bundle` times the loops of its drawings, on each device that it has engines or sessions for; `--model` those of
PyTorch: a published model (`illume-plus-3b`) with random weights made on the GPU, or the bundle's checkpoint.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.kernels import kernel_timings, module_or_none
from benchmarks.gpu.loops import Loop, our_loops, torch_loops
from benchmarks.gpu.timing import Limits, Sizes, measured_limits
from benchmarks.results import FOLDER, commit
from illume_runtime.bundle import Bundle
from illume_runtime.errors import IllumeError
from illume_runtime.files import atomic_write
from illume_runtime.gpu.accelerator import Accelerator, open_accelerator

DEVICES = ("tensorrt", "cuda")
NUM_STEPS = 20  # of PyTorch's diffusion where no bundle says how many


def kernel_results(gpu: Accelerator, limits: Limits, sizes: Sizes) -> dict[str, Any]:
    """All figures of the kernels; prints each line as it is found."""
    print(
        f"{gpu.device.name}: {limits.bytes_per_s / 1e9:.0f} GB/s copied, {limits.launch_us:.2f} us for an empty launch"
    )
    print(f"{'us':<34}{'median':>10}{'p10':>10}{'p90':>10}{'floor':>10}{'ratio':>8}")
    found = []
    for one in kernel_timings(gpu, limits, sizes):
        print(
            f"{one.name:<34}{one.median_us:>10.2f}{one.p10_us:>10.2f}{one.p90_us:>10.2f}"
            f"{one.floor_us:>10.2f}{one.ratio:>8.2f}"
        )
        found.append({**asdict(one), "ratio": one.ratio})
    return {
        "gpu": gpu.device.name,
        "compute_capability": list(gpu.device.compute_capability),
        "commit": commit(),
        "copied_bytes_per_s": limits.bytes_per_s,
        "empty_launch_us": limits.launch_us,
        "launches": sizes.launches,
        "replays": sizes.replays,
        "kernels": found,
        "peers_missing": [name for name in ("torch", "cupy", "flashinfer") if module_or_none(name) is None],
    }


def loop_results(given: argparse.Namespace, limits: Limits, sizes: Sizes) -> dict[str, Any]:
    """All figures of the loops; a device on which a bundle does not run is named with the reason."""
    found: list[Loop] = []
    refused: dict[str, str] = {}
    num_steps = NUM_STEPS
    print(f"{'ms':<34}{'median':>10}{'p10':>10}{'p90':>10}{'device':>10}{'floor':>10}")

    def keep(loop: Loop) -> None:
        times = (loop.median_ms, loop.p10_ms, loop.p90_ms, loop.device_ms, loop.floor_ms)
        cells = (f"{'' if value is None else format(value, '.2f'):>10}" for value in times)
        print(f"{f'{loop.side} {loop.loop}':<34}{''.join(cells)}")
        found.append(loop)

    if given.bundle:
        bundle = Bundle.open(given.bundle)
        num_steps = bundle.scheduler.default_steps
        for device in given.device or DEVICES:
            try:
                for loop in our_loops(bundle, device, sizes, limits.bytes_per_s, given.trace):
                    keep(loop)
            except IllumeError as error:
                print(f"illume-rt {device}: {error}")
                refused[device] = str(error)
    if given.model:
        for loop in torch_loops(given.model, num_steps, sizes):
            keep(loop)
    return {
        "bundle": given.bundle,
        "model": given.model,
        "num_steps": num_steps,
        "loops": [asdict(loop) for loop in found],
        "refused": refused,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--bundle", help="also time drawings of this bundle")
    parser.add_argument("--device", choices=DEVICES, action="append", help="what draws (both)")
    parser.add_argument("--model", help="also time PyTorch's loops of a published model or of a checkpoint")
    parser.add_argument("--trace", type=Path, help="write a picture's trace to this file")
    parser.add_argument("--implementation", choices=("cuda-core", "pycuda"), default="cuda-core")
    parser.add_argument("--quick", action="store_true", help="each once; writes nothing")
    given = parser.parse_args(arguments)
    sizes = Sizes(launches=4, replays=1, batches=(1,), pictures=1) if given.quick else Sizes()
    try:
        gpu = open_accelerator(given.implementation)
        limits = measured_limits(gpu, sizes)
        results = kernel_results(gpu, limits, sizes)
        if given.bundle or given.model:
            results |= loop_results(given, limits, sizes)
    except IllumeError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return error.exit_code
    if not given.quick:
        name = re.sub(r"[^a-z0-9]+", "-", results["gpu"].lower()).strip("-")
        with atomic_write(FOLDER / f"gpu-{name}.json") as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
