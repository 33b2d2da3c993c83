"""What the comparison found on one machine, and the file that holds it: `benchmarks/results/peers/MACHINE.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environments import OURS
from benchmarks.results import FOLDER, written
from illume_runtime.cli.table import megabytes, table
from illume_runtime.machine import Machine
from illume_runtime.typed_json import json_from_text, value_from_json

GOALS = {"text": 1.0, "picture": 1.3}


@dataclass(frozen=True, slots=True)
class Tokens:
    """One task on one side.

    `ms_per_token` sums the medians over the rounds of every step and divides by the ids behind the first one;
    `cpu_ms_per_token` is the same of the process's own time, which what else the machine does lengthens less. Of
    `num_tokens` ids the first `num_equal` are those of illume-rt; `smallest_margin` is by how much a chosen id's logit
    was ahead of the next one, at least.
    """

    ms_per_token: float
    cpu_ms_per_token: float
    ms_per_token_of_rounds: tuple[float, ...]
    first_ms: float
    num_steps: int
    num_tokens: int
    num_equal: int
    smallest_margin: float | None
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class SideResult:
    """One side: what made its files ready to run, and both tasks."""

    name: str
    versions: Mapping[str, str]
    export_s: float
    export_cpu_s: float
    export_peak_bytes: int
    text: Tokens
    picture: Tokens


@dataclass(frozen=True, slots=True)
class PeerResults:
    """One run; `left_out` says why a peer is not in it."""

    machine: Machine
    date: str
    commit: str
    shape: str
    num_weights: int
    threads: int
    rounds: int
    num_prompt: int
    sides: tuple[SideResult, ...]
    left_out: Mapping[str, str]

    def speedups(self, task: str) -> dict[str, tuple[float, float]]:
        """By peer, how many times its time per token is ours: by the clock, and of the process's own time."""
        ours = next(getattr(side, task) for side in self.sides if side.name == OURS)
        return {
            side.name: (
                getattr(side, task).ms_per_token / ours.ms_per_token,
                getattr(side, task).cpu_ms_per_token / ours.cpu_ms_per_token,
            )
            for side in self.sides
            if side.name != OURS
        }


def tokens_of_rounds(rounds: Sequence[Mapping[str, Any]], ours: Sequence[int]) -> Tokens:
    """What the worker printed of one task in each round, beside our ids. Raises ValueError if rounds differ in ids."""
    ids = rounds[0]["ids"]
    if any(other["ids"] != ids for other in rounds):
        raise ValueError("two rounds of one side chose different ids from the same weights; expected the same")
    different = [i for i, (a, b) in enumerate(zip(ids, ours, strict=True)) if a != b]
    following = len(ids) - 1
    steps, cpu = (np.array([one[key] for one in rounds]) for key in ("steps_s", "cpu_s"))
    margins = rounds[0]["margins"]
    return Tokens(
        ms_per_token=_ms(np.median(steps, axis=0).sum() / following),
        cpu_ms_per_token=_ms(np.median(cpu, axis=0).sum() / following),
        ms_per_token_of_rounds=tuple(_ms(one.sum() / following) for one in steps),
        first_ms=_ms(np.median([one["first_s"] for one in rounds])),
        num_steps=steps.shape[1],
        num_tokens=len(ids),
        num_equal=different[0] if different else len(ids),
        smallest_margin=min(margins) if margins else None,
        peak_bytes=max(one["peak_bytes"] for one in rounds),
    )


def write_results(results: PeerResults) -> Path:
    """The file of a machine."""
    return written(FOLDER / "peers", results.machine, results)


def results_from_file(path: Path) -> PeerResults:
    """The results in a file. Raises ValueError if it holds something else."""
    return value_from_json(PeerResults, json_from_text(path.read_text(encoding="utf-8")), path.name)


def text_of_results(results: PeerResults) -> str:
    """The tables for a terminal."""
    lines = [
        f"{results.shape}, {results.num_weights / 1e6:.0f} M weights in float32, {results.threads} threads, "
        f"{results.rounds} rounds in turns, a prompt of {results.num_prompt} ids; {results.machine.cpu}; "
        f"{results.date}, {results.commit}",
    ]
    for task in GOALS:
        speedups = results.speedups(task)
        rows = []
        for side in results.sides:
            one: Tokens = getattr(side, task)
            ratios = [f"{ratio:.2f}x" for ratio in speedups[side.name]] if side.name in speedups else ["", ""]
            rows.append(
                [
                    side.name,
                    f"{one.ms_per_token:.1f}",
                    ratios[0],
                    f"{one.cpu_ms_per_token:.1f}",
                    ratios[1],
                    f"{one.num_equal} of {one.num_tokens}",
                    megabytes(one.peak_bytes),
                    f"{side.export_s:.0f}",
                    f"{side.export_cpu_s:.0f}",
                ]
            )
        header = [task, "ms a token", "ours", "CPU ms", "ours", "equal ids", "peak memory", "export s", "CPU s"]
        lines += ["", table(header, rows)]
    for task, goal in GOALS.items():
        speedups = results.speedups(task)
        if speedups:
            best, (wall, cpu) = min(speedups.items(), key=lambda item: item[1])
            lines.append(f"{task}: {wall:.2f} times the best peer's speed ({best}; {cpu:.2f} in CPU time), goal {goal}")
    lines += [f"{name} is left out: {why}" for name, why in results.left_out.items()]
    return "\n".join(lines)


def _ms(seconds: float) -> float:
    return round(float(seconds) * 1e3, 3)
