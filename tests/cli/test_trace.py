"""The tracer: nesting, own time, threads, and what it costs when it is off."""

import threading

import pytest

from illume_runtime.trace import DEVICE_TRACK, NULL_TRACER, Tracer, Work


def test_own_time_leaves_out_the_spans_inside():
    tracer = Tracer()
    with tracer.span("outer"):
        with tracer.span("inner"):
            pass
        with tracer.span("inner"):
            pass
    *inner, outer = tracer.spans
    assert [span.name for span in inner] == ["inner", "inner"]
    assert [span.depth for span in tracer.spans] == [1, 1, 0]
    assert outer.self_ns == outer.duration_ns - sum(span.duration_ns for span in inner)


def test_own_times_sum_to_the_outermost_duration():
    tracer = Tracer()
    with tracer.span("a"), tracer.span("b"):
        for _ in range(10):
            with tracer.span("c"), tracer.span("d"):
                pass
    assert sum(span.self_ns for span in tracer.spans) == tracer.spans[-1].duration_ns


def test_a_span_keeps_what_was_declared():
    tracer = Tracer()
    with tracer.span("prefill", "decode", num_bytes=10, flops=20, tokens=3, step=1):
        pass
    (span,) = tracer.spans
    assert (span.name, span.category, span.num_bytes, span.flops) == ("prefill", "decode", 10, 20)
    assert span.args == {"tokens": 3, "step": 1}


def test_an_exception_ends_the_span_and_passes_through():
    tracer = Tracer()
    with pytest.raises(KeyboardInterrupt), tracer.span("outer"), tracer.span("inner"):
        raise KeyboardInterrupt
    assert [span.name for span in tracer.spans] == ["inner", "outer"]
    with tracer.span("next"):
        pass
    assert tracer.spans[-1].depth == 0


def test_threads_nest_apart_from_each_other():
    tracer = Tracer()
    inside = threading.Event()
    outside = threading.Event()

    def other() -> None:
        with tracer.span("other"):
            inside.set()
            outside.wait(10)

    with tracer.span("main"):
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait(10)
        outside.set()
        thread.join()
    other_span, main_span = tracer.spans
    assert (other_span.depth, main_span.depth) == (0, 0)
    assert other_span.thread != main_span.thread
    assert main_span.self_ns == main_span.duration_ns


def test_a_disabled_tracer_records_nothing_and_makes_no_object():
    first = NULL_TRACER.span("a", num_bytes=1, tokens=2)
    assert first is NULL_TRACER.span("b")
    with first, first:
        pass
    assert NULL_TRACER.spans == []


def test_spans_whose_times_come_later_are_asked_for_once():
    tracer = Tracer()
    with tracer.span("told"):
        pass
    asked = []
    tracer.later(lambda: asked.append(1) or (Work("done", "stage", 8, 0, {}), 5, 9, DEVICE_TRACK))
    assert not asked
    assert [(span.name, span.duration_ns) for span in tracer.spans[1:]] == [("done", 4)]
    assert len(tracer.spans) == 2
    assert asked == [1]


def test_clear_forgets_finished_spans():
    tracer = Tracer()
    with tracer.span("warm-up"):
        pass
    tracer.later(lambda: pytest.fail("asked for"))
    tracer.clear()
    assert tracer.spans == []
