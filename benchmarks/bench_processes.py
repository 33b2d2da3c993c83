"""What only a new process shows: the time to the first token, and peak memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.process import peak_bytes
from benchmarks.requests import measuring_picture
from benchmarks.results import Comparison, PeakMemory
from illume_runtime.profile.measure import first_byte_ms

COLD_STARTS = 7
MEMORY_GOAL = 0.5


def test_cold_start(
    benchmark: Any,
    bundle: Path,
    checkpoint: Path,
    threads: int,
    tmp_path: Path,
    rounds: Callable[[int], int],
    record: Any,
) -> None:
    picture = tmp_path / "picture.png"
    measuring_picture().save(picture)
    times_s: dict[str, list[float]] = {"runtime": [], "eager": []}
    commands = {
        "runtime": ["illume_runtime", "describe", str(bundle), str(picture), "--threads", str(threads)],
        "eager": ["benchmarks.process", "eager", "first-token", str(checkpoint), str(threads)],
    }

    def start(side: str) -> None:
        times_s[side].append(first_byte_ms(commands[side]) / 1e3)

    benchmark.pedantic(start, ("runtime",), setup=lambda: start("eager"), rounds=rounds(COLD_STARTS), warmup_rounds=1)
    runtime_s, eager_s = (times[1:] for times in times_s.values())
    record.cold_start = Comparison.of("process start to first token", runtime_s, eager_s, None)
    benchmark.extra_info["first_token_median_ms"] = record.cold_start.runtime.median_ms


@pytest.mark.parametrize("request_", ["draw", "describe", "edit"])
def test_peak_memory(benchmark: Any, request_: str, bundle: Path, checkpoint: Path, threads: int, record: Any) -> None:
    runtime = benchmark.pedantic(peak_bytes, ("runtime", request_, bundle, threads), rounds=1)
    found = PeakMemory.of(request_, runtime, peak_bytes("eager", request_, checkpoint, threads), MEMORY_GOAL)
    benchmark.extra_info.update(runtime_bytes=found.runtime_bytes, eager_bytes=found.eager_bytes)
    record.memory.append(found)
