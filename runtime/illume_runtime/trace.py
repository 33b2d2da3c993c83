"""Where the time goes: nested spans with the bytes and FLOPs that each one should move.

    tracer = Tracer()
    with tracer.span("prefill", num_bytes=15_728_640, flops=503_316_480, tokens=64):
        ...
    tracer.spans        # finished spans, in the order in which they ended

`NULL_TRACER` takes the same calls and records nothing, so that the code of a stage is written once.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter_ns
from types import TracebackType
from typing import NamedTuple

Argument = str | int | float | bool


class Span(NamedTuple):
    """One finished piece of work. Times are perf_counter_ns; `self_ns` leaves out the spans inside it on its thread."""

    name: str
    category: str
    start_ns: int
    end_ns: int
    self_ns: int
    depth: int
    thread: int
    num_bytes: int
    flops: int
    args: dict[str, Argument]

    @property
    def duration_ns(self) -> int:
        """Wall time from start to end."""
        return self.end_ns - self.start_ns


class Work(NamedTuple):
    """What a span says of its work but the times: made once where the same work is done in a loop."""

    name: str
    category: str
    num_bytes: int
    flops: int
    args: dict[str, Argument]


class _Thread(threading.local):
    """How many spans are open on this thread, and which one it is."""

    def __init__(self) -> None:
        self.depth = 0
        self.ident = threading.get_ident()


class _OpenSpan:
    """A span that has not ended yet: one per `with`."""

    __slots__ = ("_start_ns", "_tracer", "_work")

    def __init__(self, tracer: Tracer, work: Work) -> None:
        self._tracer = tracer
        self._work = work

    def __enter__(self) -> None:
        self._tracer._thread.depth += 1
        self._start_ns = perf_counter_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        end_ns = perf_counter_ns()
        thread = self._tracer._thread
        depth = thread.depth = thread.depth - 1
        self._tracer._ended.append((self._work, self._start_ns, end_ns, depth, thread.ident))


_NOTHING: AbstractContextManager[None] = nullcontext()


class Tracer:
    """Collects spans from any thread. A disabled tracer answers every `span` with one shared, empty context."""

    __slots__ = ("_ended", "_thread", "enabled")

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._ended: list[tuple[Work, int, int, int, int]] = []  # work, start, end, depth, thread
        self._thread = _Thread()

    @property
    def spans(self) -> list[Span]:
        """Finished spans, in the order in which they ended: a new list, made when it is asked for and not before."""
        inside_ns: dict[
            tuple[int, int], int
        ] = {}  # (thread, depth) -> time of the spans there since the last one above
        spans: list[Span] = []
        for work, start_ns, end_ns, depth, thread in self._ended:
            self_ns = end_ns - start_ns - inside_ns.pop((thread, depth + 1), 0)
            inside_ns[thread, depth] = inside_ns.get((thread, depth), 0) + end_ns - start_ns
            name, category, num_bytes, flops, args = work
            spans.append(Span(name, category, start_ns, end_ns, self_ns, depth, thread, num_bytes, flops, args))
        return spans

    def span(
        self, name: str, category: str = "stage", *, num_bytes: int = 0, flops: int = 0, **args: Argument
    ) -> AbstractContextManager[None]:
        """Time the body of a `with`; `num_bytes` and `flops` are what the work should move, for the report.

        `tokens=n` among `args` counts the tokens that the work handled: the report turns it into tokens per second.
        """
        if not self.enabled:
            return _NOTHING
        return _OpenSpan(self, Work(name, category, num_bytes, flops, args))

    def span_of(self, work: Work) -> AbstractContextManager[None]:
        """`span` for work that is described already."""
        return _OpenSpan(self, work) if self.enabled else _NOTHING

    def clear(self) -> None:
        """Forget the finished spans (between warm-up and measurement)."""
        self._ended.clear()


NULL_TRACER = Tracer(enabled=False)
