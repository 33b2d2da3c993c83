"""A table from spans: where the wall time of a request went, and how close each stage came to the machine's limits.

Every span counts with its own time, without the spans inside it, so that the rows and `other` (time in no stage) add
up to the wall time exactly. A request is a span of the category `request` around everything it did. What a GPU did
meanwhile has rows of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from illume_runtime.machine import MachineLimits
from illume_runtime.trace import DEVICE_TRACK, Span

REQUEST = "request"


@dataclass(frozen=True, slots=True)
class StageRow:
    """All spans of one name. Times in ms; rates are over the stage's own time; None where nothing was declared.

    `limit_share` is the larger of the shares of the measured memory and compute limits, and `bound_by` says which.
    A share above 1 of the memory limit means that the bytes came from a cache. The limits of a GPU are not measured.
    """

    name: str
    calls_per_request: float
    median_ms: float
    p90_ms: float
    request_ms: float
    share: float
    tokens_per_s: float | None
    gb_per_s: float | None
    gflop_per_s: float | None
    limit_share: float | None
    bound_by: str | None


@dataclass(frozen=True, slots=True)
class RequestReport:
    """One kind of request, measured `repeats` times. `rows` end with `other`; their shares sum to 1.

    `device_rows` say what a GPU did while the host waited or went on; what is left of the wall time it was idle, or did
    what no span stands for.
    """

    name: str
    repeats: int
    median_ms: float
    p90_ms: float
    rows: tuple[StageRow, ...]
    device_rows: tuple[StageRow, ...] = ()

    @property
    def other_share(self) -> float:
        """The part of the wall time that no stage accounts for."""
        return self.rows[-1].share


def report_from_spans(name: str, spans: Sequence[Span], limits: MachineLimits) -> RequestReport:
    """The report of the requests called `name` among the spans of one thread.

    Raises ValueError if there is no request of that name, or if spans of several threads overlap the requests:
    their times would not add up to the wall time. A GPU is no thread.
    """
    of_host = [span for span in spans if span.thread != DEVICE_TRACK]
    requests = [span for span in of_host if span.category == REQUEST and span.name == name and span.depth == 0]
    if not requests:
        raise ValueError(f"no span of category {REQUEST!r} is called {name!r}; wrap the request in one")
    inside = [span for span in of_host if any(_contains(request, span) for request in requests)]
    if len({span.thread for span in inside}) > 1:
        raise ValueError(f"{name}: the spans come from several threads; report one thread at a time")
    wall_ms = np.array([request.duration_ns for request in requests]) / 1e6
    groups = _by_name(inside)
    other = groups.pop("other")
    wall_s = float(wall_ms.sum()) / 1e3
    rows = [_row(stage, group, len(requests), wall_s, limits) for stage, group in groups.items()]
    rows.append(_row("other", other, len(requests), wall_s, limits))
    of_device = [
        span
        for span in spans
        if span.thread == DEVICE_TRACK
        and any(request.start_ns <= span.start_ns < request.end_ns for request in requests)
    ]
    device_rows = [_row(stage, group, len(requests), wall_s, None) for stage, group in _by_name(of_device).items()]
    return RequestReport(
        name=name,
        repeats=len(requests),
        median_ms=float(np.median(wall_ms)),
        p90_ms=float(np.percentile(wall_ms, 90)),
        rows=tuple(rows),
        device_rows=tuple(device_rows),
    )


def _by_name(spans: Sequence[Span]) -> dict[str, list[Span]]:
    """In order of their first start; requests are `other`."""
    groups: dict[str, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start_ns):
        groups["other" if span.category == REQUEST else span.name].append(span)
    return groups


def _contains(request: Span, span: Span) -> bool:
    return request.start_ns <= span.start_ns and span.end_ns <= request.end_ns


def _row(name: str, spans: list[Span], num_requests: int, wall_s: float, limits: MachineLimits | None) -> StageRow:
    own_ms = np.array([span.self_ns for span in spans]) / 1e6
    own_s = max(float(own_ms.sum()) / 1e3, 1e-9)
    num_tokens = sum(int(span.args.get("tokens", 0)) for span in spans)
    bytes_per_s = sum(span.num_bytes for span in spans) / own_s
    flops_per_s = sum(span.flops for span in spans) / own_s
    limit_share, bound_by = _nearest_limit(bytes_per_s, flops_per_s, limits)
    return StageRow(
        name=name,
        calls_per_request=len(spans) / num_requests,
        median_ms=float(np.median(own_ms)),
        p90_ms=float(np.percentile(own_ms, 90)),
        request_ms=float(own_ms.sum()) / num_requests,
        share=own_s / wall_s,
        tokens_per_s=num_tokens / own_s if num_tokens else None,
        gb_per_s=bytes_per_s / 1e9 if bytes_per_s else None,
        gflop_per_s=flops_per_s / 1e9 if flops_per_s else None,
        limit_share=limit_share,
        bound_by=bound_by,
    )


def _nearest_limit(
    bytes_per_s: float, flops_per_s: float, limits: MachineLimits | None
) -> tuple[float | None, str | None]:
    """Share and name of the limit that is nearer; None where nothing was declared or no limit is known."""
    if limits is None or not (bytes_per_s or flops_per_s):
        return None, None
    memory, compute = bytes_per_s / limits.memory_bytes_per_s, flops_per_s / limits.float32_flops_per_s
    return (memory, "memory") if memory >= compute else (compute, "compute")
