"""What the device did and when, as a track of its own in a trace: spans of the host only say when it was told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns

from illume_runtime.device.protocol import Event, Stream
from illume_runtime.trace import DEVICE_TRACK, Ended, Tracer, Work

ORIGIN_NS = 60 * 10**9  # after which both clocks are compared anew: a time since an event is a float32


class DeviceTrack:
    """Times of work on one stream, by events around it, on the clock of the host."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._origin: tuple[Event, int] | None = None  # an event, and perf_counter_ns when it was there

    @contextmanager
    def span(self, tracer: Tracer, describe: Callable[[], Work]) -> Iterator[None]:
        """A span of the host, which enqueues the body's work, and one of the device, from its start to its end.

        The device's is there when the tracer's spans are asked for, which waits for it. `describe` is called only where
        spans are recorded.
        """
        if not tracer.enabled:
            yield
            return
        work = describe()
        if self._origin is None or perf_counter_ns() - self._origin[1] > ORIGIN_NS:
            self._origin = self._opened()
        origin = self._origin
        start = self._stream.record(is_timed=True)
        with tracer.span_of(work):
            yield
        end = self._stream.record(is_timed=True)
        tracer.later(lambda: _ended(work, origin, start, end))

    def _opened(self) -> tuple[Event, int]:
        event = self._stream.record(is_timed=True)
        event.synchronize()
        return event, perf_counter_ns()


def _ended(work: Work, origin: tuple[Event, int], start: Event, end: Event) -> Ended:
    end.synchronize()
    event, host_ns = origin
    start_ns, end_ns = (host_ns + round(1e6 * one.ms_since(event)) for one in (start, end))
    return work, start_ns, end_ns, DEVICE_TRACK
