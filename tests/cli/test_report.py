"""The arithmetic of the profiler on spans whose times are known."""

import json

import pytest

from illume_runtime.cli.profile import report_text
from illume_runtime.machine import MachineLimits
from illume_runtime.profile import REQUEST, json_from_spans, report_from_spans, write_trace
from illume_runtime.trace import DEVICE_TRACK, Span, Tracer

MS = 1_000_000
LIMITS = MachineLimits(threads=1, memory_bytes_per_s=10e9, float32_flops_per_s=100e9)


def span(name, start_ms, end_ms, own_ms, *, depth=1, category="stage", thread=1, num_bytes=0, flops=0, **args):
    times = (int(start_ms * MS), int(end_ms * MS), int(own_ms * MS))
    return Span(name, category, *times, depth, thread, num_bytes, flops, args)


def two_drawings():
    """Two requests of 100 ms: 60 ms of decode in three spans, 30 ms of denoise, 10 ms in no stage."""
    spans = []
    for start in (0, 200):
        for step in range(3):
            begin = start + 20 * step
            spans.append(span("decode", begin, begin + 20, 20, num_bytes=100_000_000, flops=10_000_000, tokens=2))
        spans.append(span("denoise", start + 65, start + 95, 30, num_bytes=3_000_000, flops=1_500_000_000))
        spans.append(span("draw", start, start + 100, 10, depth=0, category=REQUEST))
    return spans


def rows_of(report):
    return {row.name: row for row in report.rows}


def test_rows_and_other_add_up_to_the_wall_time():
    report = report_from_spans("draw", two_drawings(), LIMITS)
    assert [row.name for row in report.rows] == ["decode", "denoise", "other"]
    assert sum(row.share for row in report.rows) == pytest.approx(1, abs=1e-12)
    assert sum(row.request_ms for row in report.rows) == pytest.approx(100)
    assert report.other_share == pytest.approx(0.1)
    assert (report.repeats, report.median_ms, report.p90_ms) == (2, 100, 100)


def test_rates_are_over_the_own_time_of_the_stage():
    decode = rows_of(report_from_spans("draw", two_drawings(), LIMITS))["decode"]
    assert decode.calls_per_request == 3
    assert (decode.median_ms, decode.p90_ms) == (20, 20)
    assert decode.tokens_per_s == pytest.approx(100)
    assert decode.gb_per_s == pytest.approx(5)
    assert decode.gflop_per_s == pytest.approx(0.5)


@pytest.mark.parametrize(("name", "bound_by", "share"), [("decode", "memory", 0.5), ("denoise", "compute", 0.5)])
def test_bound_by_is_the_larger_share_of_the_two_limits(name, bound_by, share):
    row = rows_of(report_from_spans("draw", two_drawings(), LIMITS))[name]
    assert row.bound_by == bound_by
    assert row.limit_share == pytest.approx(share)


def test_what_declared_nothing_has_no_rates():
    other = rows_of(report_from_spans("draw", two_drawings(), LIMITS))["other"]
    assert (other.tokens_per_s, other.gb_per_s, other.gflop_per_s, other.limit_share, other.bound_by) == (None,) * 5


def test_a_span_inside_a_stage_is_counted_once():
    spans = [
        span("head", 5, 9, 4, depth=2),
        span("decode", 0, 10, 6),
        span("draw", 0, 10, 0, depth=0, category=REQUEST),
    ]
    rows = rows_of(report_from_spans("draw", spans, LIMITS))
    assert {name: row.request_ms for name, row in rows.items()} == {"decode": 6, "head": 4, "other": 0}


def test_spans_outside_the_requests_are_left_out():
    spans = [*two_drawings(), span("load", 110, 190, 80, depth=0, category="load")]
    assert report_from_spans("draw", spans, LIMITS) == report_from_spans("draw", two_drawings(), LIMITS)


def test_a_missing_request_says_what_to_do():
    with pytest.raises(ValueError, match=r"no span of category 'request' is called 'edit'; wrap"):
        report_from_spans("edit", two_drawings(), LIMITS)


def test_overlapping_threads_are_refused():
    with pytest.raises(ValueError, match="several threads"):
        report_from_spans("draw", [*two_drawings(), span("vae", 1, 2, 1, thread=2)], LIMITS)


def test_a_gpu_has_rows_of_its_own():
    on_gpu = [span("decode", 10, 60, 50, depth=0, thread=DEVICE_TRACK, num_bytes=500_000_000, tokens=4)]
    on_gpu.append(span("decode", 150, 160, 10, depth=0, thread=DEVICE_TRACK))  # between the requests
    report = report_from_spans("draw", [*two_drawings(), *on_gpu], LIMITS)
    assert report.rows == report_from_spans("draw", two_drawings(), LIMITS).rows
    (row,) = report.device_rows
    assert (row.name, row.median_ms, row.request_ms, row.tokens_per_s) == ("decode", 50, 25, 80)
    assert (row.share, row.gb_per_s, row.limit_share) == (pytest.approx(0.25), pytest.approx(10), None)
    shown = report_text(report, LIMITS)
    assert "on the GPU, 25.0% of the time\n" in shown
    assert shown.count("decode") == 2


def test_the_track_of_a_gpu_is_named_in_the_file():
    spans = [*two_drawings(), span("decode", 10, 60, 50, depth=0, thread=DEVICE_TRACK)]
    events = json_from_spans(spans, {})["traceEvents"]
    names = {event["args"]["name"]: event["tid"] for event in events if event["name"] == "thread_name"}
    assert names.keys() == {"host 0", "device"}
    assert [event["name"] for event in events if event["ph"] == "X" and event["tid"] == names["device"]] == ["decode"]


def test_a_real_trace_adds_up():
    tracer = Tracer()
    for _ in range(3):
        with tracer.span("draw", REQUEST), tracer.span("decode"):
            for _ in range(4):
                with tracer.span("head"):
                    sum(range(1000))
    report = report_from_spans("draw", tracer.spans, LIMITS)
    assert sum(row.share for row in report.rows) == pytest.approx(1, abs=1e-9)


def test_the_trace_file_is_json_whose_events_nest(tmp_path):
    path = tmp_path / "trace.json"
    write_trace(path, two_drawings(), {"command": "illume profile"})
    data = json.loads(path.read_text())
    assert data["otherData"] == {"command": "illume profile"}
    events = [event for event in data["traceEvents"] if event["ph"] == "X"]
    assert len(events) == len(two_drawings())
    assert [event["ts"] for event in events] == sorted(event["ts"] for event in events)
    open_ends: list[float] = []
    for event in events:
        while open_ends and open_ends[-1] <= event["ts"]:
            open_ends.pop()
        end = event["ts"] + event["dur"]
        assert not open_ends or end <= open_ends[-1]
        open_ends.append(end)
    assert events[1]["args"] == {"tokens": 2, "bytes": 100_000_000, "flops": 10_000_000}


def test_a_trace_without_spans_is_valid():
    assert json_from_spans([], {})["otherData"] == {}


def test_a_trace_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="no-such-folder"):
        write_trace(tmp_path / "no-such-folder" / "trace.json", two_drawings(), {})
    assert list(tmp_path.iterdir()) == []
