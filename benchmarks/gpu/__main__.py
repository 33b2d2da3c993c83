"""Everything that can be measured on the GPU of this machine, within a given time.

    python -m benchmarks.gpu [--bundle BUNDLE [--device cuda --device tensorrt]] [--model NAME|CHECKPOINT]
                             [--section NAME ...] [--minutes 9] [--output FOLDER] [--quick]
    python -m benchmarks.gpu --sanitize

Prints a table and, as its last line, one JSON object; writes benchmarks/results/gpu/GPU-DATE.json, anew after every
section. What fails, is absent or does not fit into the time is an entry with the reason. Ends with 6 where a kernel
differs from its definition, 8 where anything else failed, 3 without a GPU (then in one line) or without any figure.

`--bundle` times the loops of its drawings, on each device that it has engines or sessions for; `--model` those of
PyTorch and ours around PyTorch's layers: a published model (`illume-plus-3b`) with random weights made on the GPU, or
the bundle's checkpoint.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from time import time
from typing import Any

from benchmarks.gpu.environment import environment, free_path
from benchmarks.gpu.loops import DEVICES
from benchmarks.gpu.plan import SECTIONS, jobs_of
from benchmarks.gpu.report import Report
from benchmarks.gpu.running import Runner
from benchmarks.gpu.sanitize import TOOLS, sanitize_job, sanitizer
from benchmarks.gpu.timing import Sizes
from benchmarks.gpu.worker import sizes_of
from benchmarks.results import FOLDER
from illume_runtime.errors import IllumeError, UsageError

WORKER = (sys.executable, "-m", "benchmarks.gpu.worker")
OPTIONS = ("bundle", "device", "model", "section", "trace", "implementation", "quick")
MINUTES = 9.0
LAST_S = 5.0  # for the table


def arguments_of(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--bundle", help="also time drawings of this bundle")
    parser.add_argument("--device", choices=DEVICES, action="append", help="what draws (both)")
    parser.add_argument("--model", help="also time loops around a published model or a checkpoint in PyTorch")
    parser.add_argument("--trace", help="write a picture's trace to this file")
    parser.add_argument("--implementation", choices=("cuda-core", "pycuda"), default="cuda-core")
    parser.add_argument("--section", choices=SECTIONS, action="append", help="only these (all)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"what all may take ({MINUTES:g})")
    parser.add_argument("--output", type=Path, help="folder of the results (benchmarks/results/gpu)")
    parser.add_argument("--quick", action="store_true", help="each once; writes nothing without --output")
    parser.add_argument("--sanitize", action="store_true", help="run every kernel under compute-sanitizer's tools")
    given = parser.parse_args(arguments)
    if not 0 < given.minutes < 1e4:
        parser.error(f"--minutes: got {given.minutes:g}, expected more than 0")
    return given


def measure(given: argparse.Namespace, sizes: Sizes, report: Report, command: Sequence[str], deadline: float) -> None:
    """Do all jobs."""
    options = {name: getattr(given, name) for name in OPTIONS}
    Runner(jobs_of(given, sizes), command, options, deadline, report.keep, report.write).run()


def main(arguments: list[str] | None = None, command: Sequence[str] = WORKER, sizes: Sizes | None = None) -> int:
    """Measure, print, write. The workers that `command` starts have the same sizes."""
    start = time()
    given = arguments_of(arguments)
    try:
        facts = environment()
        if given.bundle and not Path(given.bundle).is_dir():
            raise UsageError(f"--bundle: {given.bundle} is no folder; export a bundle first")
        tool = sanitizer() if given.sanitize else None
    except IllumeError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return error.exit_code
    folder = given.output or (None if given.quick else FOLDER / "gpu")
    path = None if folder is None else free_path(folder, facts["gpu"], facts["date"])
    options: dict[str, Any] = {name: str(value) for name, value in vars(given).items() if value not in (None, False)}
    report = Report(facts, options, path)
    report.write()
    deadline = start + given.minutes * 60 - min(LAST_S, given.minutes * 6)
    before = signal.signal(signal.SIGTERM, _stopped)
    code = 0
    try:
        if tool is not None:
            for name in TOOLS:
                job = sanitize_job(name)
                for entry in job.work((tool, deadline)):
                    report.keep(job, entry)
                report.write()
        else:
            measure(given, sizes or sizes_of(given), report, command, deadline)
    except KeyboardInterrupt as stop:
        code = int(stop.args[0]) if stop.args else 130
    finally:
        signal.signal(signal.SIGTERM, before)
        report.write()
        report.print_last()
    return code or report.exit_code()


def _stopped(number: int, _: object) -> None:
    raise KeyboardInterrupt(128 + number)


if __name__ == "__main__":
    sys.exit(main())
