"""compute-sanitizer's tools over every kernel at small sizes (`launch_all`), and what they report."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from time import perf_counter, time
from typing import Any

from benchmarks.gpu.entry import FAILED, NO_TIME, OURS, SKIPPED, Entry, Job
from illume_runtime.errors import EngineError, QualityError, UnavailableError

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
PROGRAM = "compute-sanitizer"
SECTION = "sanitizer"
LIMIT_S, NEEDS_S = 240.0, 10.0
TARGET = (sys.executable, "-m", "benchmarks.gpu.launch_all")
SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard")
FOUND = re.compile(r"^=+ *((?:Invalid|Error|Uninitialized|Barrier|Warning|Misaligned|Program hit|Unable).*)$", re.M)


def sanitizer() -> str:
    """The program's path. Raises UnavailableError."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise UnavailableError(f"--sanitize: {PROGRAM} is not on the PATH; install it with the CUDA toolkit")
    return found


def sanitize_job(tool: str, target: Sequence[str] = TARGET) -> Job:
    """One tool's job; its work takes (program, deadline)."""
    return Job(tool, SECTION, OURS, NEEDS_S, LIMIT_S, partial(sanitized, tool, target))


def sanitized(tool: str, target: Sequence[str], given: tuple[str, float]) -> Iterator[Entry]:
    """How many errors (hazards) a tool reports, in seconds that it took; any is a failure."""
    program, deadline = given
    job = sanitize_job(tool, target)
    left_s = min(LIMIT_S, deadline - time())
    if left_s < NEEDS_S:
        yield job.not_done(SKIPPED, NO_TIME)
        return
    command = [program, "--tool", tool, *target]
    start = perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left_s, check=False, errors="replace")
    except subprocess.TimeoutExpired:
        yield job.not_done(FAILED, f"stopped after {left_s:.0f} s", EngineError.exit_code)
    except OSError as error:
        yield job.not_done(FAILED, f"{PROGRAM}: {error}", EngineError.exit_code)
    else:
        yield judged(job, done.stdout + done.stderr, done.returncode, perf_counter() - start)


def judged(job: Job, output: str, code: int, seconds: float) -> Entry:
    """The entry by what the tool printed: a missing summary is a failure, as is a target that failed."""
    counts = [int(one or two) for one, two in SUMMARY.findall(output)]
    if not counts:
        last = (output.strip().splitlines() or ["nothing was printed"])[-1]
        return job.not_done(FAILED, f"no summary, exit code {code}: {last}", EngineError.exit_code)
    facts: dict[str, Any] = {"errors": sum(counts)}
    if sum(counts):
        first = FOUND.search(output)
        said = f": {first[1]}" if first else ""
        reason = f"{sum(counts)} errors{said}"
        return Entry(job.name, job.side, FAILED, reason[:300], exit_code=QualityError.exit_code, facts=facts)
    if code:
        said = next((line for line in output.splitlines() if line.startswith("launch_all:")), f"exit code {code}")
        return Entry(job.name, job.side, FAILED, said[:300], exit_code=code, facts=facts)
    num_kernels = sum(not line.startswith("=") for line in output.splitlines() if line.strip())
    note = f"0 errors in {num_kernels} cases"
    return Entry.of_times(job.name, job.side, [seconds], unit="s", note=note, facts={**facts, "cases": num_kernels})
