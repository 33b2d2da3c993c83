"""One side in a process and an environment of its own.

python -m benchmarks.peers.worker export SIDE CHECKPOINT OUTPUT THREADS WEIGHTS
python -m benchmarks.peers.worker run SIDE OUTPUT TASK THREADS

The last line that it prints is JSON. WEIGHTS is the type in which they are stored, as `environments.QUANTIZED` has it.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from benchmarks.peers.task import chosen_by, task_from_file
from illume_runtime.machine import peak_memory_bytes


def export(side: str, checkpoint: Path, output: Path, threads: int, weights: str) -> dict[str, object]:
    """What it took, imports and child processes included."""
    begin_s = perf_counter()
    importlib.import_module(f"benchmarks.peers.sides.{side}").export(checkpoint, output, threads, weights)
    of_children = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "seconds": perf_counter() - begin_s,
        "cpu_seconds": sum(os.times()[:4]),
        "peak_bytes": max(peak_memory_bytes(), of_children),
    }


def run(side: str, folder: Path, task_path: Path, threads: int) -> dict[str, object]:
    """Text, then a picture, each with the largest resident size until then."""
    begin_s = perf_counter()
    module = importlib.import_module(f"benchmarks.peers.sides.{side}")
    task = task_from_file(task_path)
    loaded = module.Side(folder, threads, task.max_tokens)
    found: dict[str, object] = {"versions": {name: version(name) for name in module.PACKAGES}}
    for name in ("text", "picture"):
        if hasattr(loaded, "append"):
            chosen = chosen_by(loaded, task.prompt, getattr(task, name))
        else:
            loaded.load(name)
            chosen = getattr(loaded, name)(task)
        found[name] = {**asdict(chosen), "peak_bytes": peak_memory_bytes()}
    return {**found, "seconds": perf_counter() - begin_s}


def main(verb: str, side: str, source: str, target: str, threads: str, *more: str) -> None:
    """Print what was found as the last line."""
    function = {"export": export, "run": run}[verb]
    found = function(side, Path(source), Path(target), int(threads), *more)
    print(f"\n{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
