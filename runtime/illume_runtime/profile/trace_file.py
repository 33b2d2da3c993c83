"""One trace file for chrome://tracing and ui.perfetto.dev, in the Trace Event format (complete events, `ph: X`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from illume_runtime.files import atomic_write
from illume_runtime.trace import DEVICE_TRACK, Span


def write_trace(path: str | Path, spans: Sequence[Span], about: Mapping[str, str]) -> None:
    """Write the spans as a trace file, whole or not at all; `about` (bundle, command, machine) is kept in it.

    Times count from the first span, in microseconds. Each thread is a track, and so is a GPU; nesting follows from the
    times.
    Raises OSError when the file cannot be written.
    """
    with atomic_write(Path(path)) as temporary:
        temporary.write_text(json.dumps(json_from_spans(spans, about)), encoding="utf-8")


def json_from_spans(spans: Sequence[Span], about: Mapping[str, str]) -> dict[str, object]:
    """The trace as JSON data, its events in order of their start."""
    ordered = sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))
    origin_ns = ordered[0].start_ns if ordered else 0
    tracks = {thread: track for track, thread in enumerate(dict.fromkeys(span.thread for span in ordered))}
    events: list[dict[str, object]] = [_name_event("process_name", 0, "illume")]
    for thread, track in tracks.items():
        events.append(_name_event("thread_name", track, "device" if thread == DEVICE_TRACK else f"host {track}"))
    events += [_event(span, origin_ns, tracks[span.thread]) for span in ordered]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": dict(about)}


def _name_event(what: str, track: int, name: str) -> dict[str, object]:
    return {"ph": "M", "pid": 1, "tid": track, "name": what, "args": {"name": name}}


def _event(span: Span, origin_ns: int, track: int) -> dict[str, object]:
    declared = {"bytes": span.num_bytes, "flops": span.flops}
    return {
        "ph": "X",
        "pid": 1,
        "tid": track,
        "name": span.name,
        "cat": span.category,
        "ts": (span.start_ns - origin_ns) / 1e3,
        "dur": span.duration_ns / 1e3,
        "args": {**span.args, **{key: value for key, value in declared.items() if value}},
    }
