"""What `make bench` found on one machine, and the file that holds it: `benchmarks/results/MACHINE.json`."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from illume_runtime.files import atomic_write
from illume_runtime.machine import Machine, MachineLimits
from illume_runtime.profile.report import RequestReport
from illume_runtime.typed_json import json_from_text, json_from_value, value_from_json

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Times:
    """Wall times of `rounds` calls."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int

    @classmethod
    def of_seconds(cls, times_s: Sequence[float]) -> Times:
        low, median, high = (round(float(t) * 1e3, 3) for t in np.percentile(times_s, (10, 50, 90)))
        return cls(median, low, high, len(times_s))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides of one request, called in turn; `speedup` is the ratio of the medians, `goal` what we want of it."""

    name: str
    runtime: Times
    eager: Times
    speedup: float
    goal: float | None

    @classmethod
    def of(cls, name: str, runtime_s: Sequence[float], eager_s: Sequence[float], goal: float | None) -> Comparison:
        runtime, eager = Times.of_seconds(runtime_s), Times.of_seconds(eager_s)
        return cls(name, runtime, eager, round(eager.median_ms / runtime.median_ms, 3), goal)


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """The largest resident size of processes that make one kind of request; `share` is the runtime's of eager's."""

    name: str
    runtime_bytes: int
    eager_bytes: int
    share: float
    goal: float

    @classmethod
    def of(cls, name: str, runtime_bytes: int, eager_bytes: int, goal: float) -> PeakMemory:
        return cls(name, runtime_bytes, eager_bytes, round(runtime_bytes / eager_bytes, 3), goal)


@dataclass(frozen=True, slots=True)
class ProfilerCost:
    """Drawings with and without spans, in pairs, and what the spans should cost by their number and the time of one.

    `overhead` is the median over the pairs: what slows the machine for a while slows both drawings of a pair. On a
    machine that does much other work `counted_overhead` is the surer figure still.
    """

    traced: Times
    untraced: Times
    overhead: float
    spans: int
    span_us: float
    counted_overhead: float

    @classmethod
    def of(cls, traced_s: Sequence[float], untraced_s: Sequence[float], spans: int, span_s: float) -> ProfilerCost:
        traced, untraced = Times.of_seconds(traced_s), Times.of_seconds(untraced_s)
        overhead = float(np.median([t / u - 1 for t, u in zip(traced_s, untraced_s, strict=True)]))
        counted = spans * span_s * 1e3 / untraced.median_ms
        return cls(traced, untraced, round(overhead, 5), spans, round(span_s * 1e6, 3), round(counted, 5))


@dataclass(frozen=True, slots=True)
class Results:
    """One run of all benchmarks; `stages` says where the time of a request went, and each stage's share of a limit."""

    machine: Machine
    limits: MachineLimits
    date: str
    commit: str
    model: str
    versions: Mapping[str, str]
    requests: tuple[Comparison, ...]
    cold_start: Comparison
    memory: tuple[PeakMemory, ...]
    profiler: ProfilerCost
    stages: tuple[RequestReport, ...]


def write_results(results: Results) -> Path:
    """The file of a machine."""
    return written(FOLDER, results.machine, results)


def written(folder: Path, machine: Machine, results: object) -> Path:
    """The machine's file in a folder, written whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name_of_machine(machine)}.json"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(json_from_value(results), indent=1) + "\n", encoding="utf-8")
    return path


def results_from_file(path: Path) -> Results:
    """The results in a file. Raises ValueError if it holds something else."""
    return value_from_json(Results, json_from_text(path.read_text(encoding="utf-8")), path.name)


def all_results() -> list[Results]:
    """The results of every machine that has a file, in order of the files' names."""
    return [results_from_file(path) for path in sorted(FOLDER.glob("*.json"))]


def name_of_machine(machine: Machine) -> str:
    """A file's name: what the CPU calls itself, and the number of its cores."""
    cpu = re.sub(r"[^a-z0-9]+", "-", machine.cpu.lower()).strip("-")
    return f"{cpu}-{machine.cores}-cores"


def commit() -> str:
    """The commit of the working tree, `-dirty` where it differs; `unknown` outside a repository."""
    command = ["git", "describe", "--always", "--dirty"]
    described = subprocess.run(command, cwd=FOLDER.parents[1], capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"
