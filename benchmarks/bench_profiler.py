"""What tracing costs, where the time of a request goes, and how near each stage comes to the machine's limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from benchmarks.requests import measuring_picture
from benchmarks.results import ProfilerCost
from benchmarks.runtime_side import RuntimeSide
from illume_runtime.machine import measured_limits
from illume_runtime.profile.measure import measure, request_of
from illume_runtime.profile.report import report_from_spans
from illume_runtime.trace import Tracer

ROUNDS = 61
REPEATS = 11
SPANS = 10_000


@pytest.fixture
def traced(bundle: Path, threads: int) -> tuple[RuntimeSide, Tracer]:
    tracer = Tracer()
    return RuntimeSide(bundle, threads, tracer), tracer


def test_overhead(
    benchmark: Any, traced: tuple[RuntimeSide, Tracer], rounds: Callable[[int], int], record: Any
) -> None:
    side, tracer = traced
    times_s: dict[bool, list[float]] = {True: [], False: []}  # traced or not: one of each in a round

    def pair() -> None:
        tracer.clear()
        traced_first = len(times_s[True]) % 2 == 0  # neither is always the one that finds the caches warm
        for tracer.enabled in (traced_first, not traced_first):
            start_s = perf_counter()
            side.draw()
            times_s[tracer.enabled].append(perf_counter() - start_s)

    benchmark.pedantic(pair, rounds=rounds(ROUNDS), warmup_rounds=1)
    num_spans = len(tracer.spans)
    span_s = _time_of_a_span()
    record.profiler = ProfilerCost.of(times_s[True][1:], times_s[False][1:], num_spans, span_s)
    benchmark.extra_info.update(overhead=record.profiler.overhead, counted_overhead=record.profiler.counted_overhead)


@pytest.mark.parametrize("kind", ["draw", "describe", "edit"])
def test_stages(
    benchmark: Any,
    kind: str,
    traced: tuple[RuntimeSide, Tracer],
    threads: int,
    rounds: Callable[[int], int],
    record: Any,
) -> None:
    side, tracer = traced
    tracer.clear()
    request = request_of(kind, side.pipeline, tracer, measuring_picture())
    benchmark.pedantic(
        lambda: measure(kind, request, tracer, repeats=rounds(REPEATS), warm_up=1, on_step=lambda done, total: None),
        rounds=1,
    )
    report = report_from_spans(kind, tracer.spans, measured_limits(threads))
    benchmark.extra_info.update(median_ms=report.median_ms, outside_stages=report.other_share)
    record.stages.append(report)


def _time_of_a_span() -> float:
    """Seconds that one span takes in a loop, the best of five."""
    best_s = float("inf")
    for _ in range(5):
        tracer = Tracer()
        start_s = perf_counter()
        for step in range(SPANS):
            with tracer.span("decode.level0", num_bytes=1, flops=1, tokens=2, step=step):
                pass
        best_s = min(best_s, (perf_counter() - start_s) / SPANS)
    return best_s
