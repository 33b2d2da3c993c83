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
    """One finished piece of work. Times are perf_counter_ns; `self_ns` leaves out the spans inside it on its thread.

    A tuple, because it is made in a third of the time that a frozen dataclass takes.
    """

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


class _OpenSpan:
    """A span that has not ended yet: one per `with`."""

    __slots__ = ("_args", "_category", "_child_ns", "_flops", "_name", "_num_bytes", "_stack", "_start_ns", "_tracer")

    def __init__(
        self, tracer: Tracer, name: str, category: str, num_bytes: int, flops: int, args: dict[str, Argument]
    ) -> None:
        self._tracer = tracer
        self._name = name
        self._category = category
        self._num_bytes = num_bytes
        self._flops = flops
        self._args = args
        self._child_ns = 0

    def __enter__(self) -> None:
        self._stack = self._tracer._stack_of_this_thread()
        self._stack.append(self)
        self._start_ns = perf_counter_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        end_ns = perf_counter_ns()
        self._stack.pop()
        duration_ns = end_ns - self._start_ns
        if self._stack:
            self._stack[-1]._child_ns += duration_ns
        self._tracer.spans.append(
            Span(
                self._name,
                self._category,
                self._start_ns,
                end_ns,
                duration_ns - self._child_ns,
                len(self._stack),
                threading.get_ident(),
                self._num_bytes,
                self._flops,
                self._args,
            )
        )


_NOTHING: AbstractContextManager[None] = nullcontext()


class Tracer:
    """Collects spans from any thread. A disabled tracer answers every `span` with one shared, empty context."""

    __slots__ = ("_local", "enabled", "spans")

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.spans: list[Span] = []
        self._local = threading.local()

    def span(
        self, name: str, category: str = "stage", *, num_bytes: int = 0, flops: int = 0, **args: Argument
    ) -> AbstractContextManager[None]:
        """Time the body of a `with`; `num_bytes` and `flops` are what the work should move, for the report.

        `tokens=n` among `args` counts the tokens that the work handled: the report turns it into tokens per second.
        """
        if not self.enabled:
            return _NOTHING
        return _OpenSpan(self, name, category, num_bytes, flops, args)

    def clear(self) -> None:
        """Forget the finished spans (between warm-up and measurement)."""
        self.spans.clear()

    def _stack_of_this_thread(self) -> list[_OpenSpan]:
        try:
            stack: list[_OpenSpan] = self._local.stack
        except AttributeError:
            stack = self._local.stack = []
        return stack


NULL_TRACER = Tracer(enabled=False)
