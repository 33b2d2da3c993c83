"""Where the time goes: nested spans with the bytes and FLOPs that each one should move.

    tracer = Tracer()
    with tracer.span("prefill", num_bytes=15_728_640, flops=503_316_480, tokens=64):
        ...
    tracer.spans        # finished spans, in the order in which they ended

`NULL_TRACER` takes the same calls and records nothing, so that the code of a stage is written once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import get_ident
from time import perf_counter_ns
from types import TracebackType
from typing import Final, NamedTuple

Argument = str | int | float | bool
Ended = tuple["Work", int, int, int]  # work, start, end, thread
DEVICE_TRACK: Final = -1  # in place of a thread: what a GPU did


class Span(NamedTuple):
    """One finished piece of work. Times are perf_counter_ns; `self_ns` leaves out the spans inside it on its thread.

    `depth` counts the finished spans of its thread that it is inside of.
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


class Work(NamedTuple):
    """What a span says of its work but the times: made once where the same work is done in a loop."""

    name: str
    category: str
    num_bytes: int
    flops: int
    args: dict[str, Argument]


class _OpenSpan:
    """A span that has not ended yet: one per `with`. It does little: between two steps its code is in no cache."""

    __slots__ = ("_ended", "_start_ns", "_work")

    def __init__(self, ended: list[Ended], work: Work) -> None:
        self._ended = ended
        self._work = work

    def __enter__(self) -> None:
        self._start_ns = perf_counter_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.append((self._work, self._start_ns, perf_counter_ns(), get_ident()))


_NOTHING: AbstractContextManager[None] = nullcontext()


class Tracer:
    """Collects spans from any thread. A disabled tracer answers every `span` with one shared, empty context."""

    __slots__ = ("_ended", "_later", "enabled")

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._ended: list[Ended] = []
        self._later: list[Callable[[], Ended]] = []

    @property
    def spans(self) -> list[Span]:
        """Finished spans, in the order in which they ended: a new list, made when it is asked for and not before.

        Those of `later` stand behind the others.
        """
        later, self._later = self._later, []
        self._ended += [ended() for ended in later]
        inside: dict[int, list[int]] = {}  # thread -> places of the spans that are inside of none so far
        parents = [-1] * len(self._ended)
        self_ns = [end_ns - start_ns for _, start_ns, end_ns, _ in self._ended]
        for place, (_, start_ns, _, thread) in enumerate(self._ended):
            outermost = inside.setdefault(thread, [])
            while outermost and self._ended[outermost[-1]][1] >= start_ns:
                parents[outermost[-1]] = place
                _, child_start_ns, child_end_ns, _ = self._ended[outermost.pop()]
                self_ns[place] -= child_end_ns - child_start_ns
            outermost.append(place)
        depths = [0] * len(parents)
        for place in reversed(range(len(parents))):  # what a span is inside of ends after it
            depths[place] = depths[parents[place]] + 1 if parents[place] >= 0 else 0
        return [
            Span(w.name, w.category, start_ns, end_ns, own_ns, depth, thread, w.num_bytes, w.flops, w.args)
            for (w, start_ns, end_ns, thread), own_ns, depth in zip(self._ended, self_ns, depths, strict=True)
        ]

    def span(
        self, name: str, category: str = "stage", *, num_bytes: int = 0, flops: int = 0, **args: Argument
    ) -> AbstractContextManager[None]:
        """Time the body of a `with`; `num_bytes` and `flops` are what the work should move, for the report.

        `tokens=n` among `args` counts the tokens that the work handled: the report turns it into tokens per second.
        """
        if not self.enabled:
            return _NOTHING
        return _OpenSpan(self._ended, Work(name, category, num_bytes, flops, args))

    def span_of(self, work: Work) -> AbstractContextManager[None]:
        """`span` for work that is described already."""
        return _OpenSpan(self._ended, work) if self.enabled else _NOTHING

    def later(self, ended: Callable[[], Ended]) -> None:
        """A span whose times are not known yet: it is asked for when all spans are."""
        self._later.append(ended)

    def clear(self) -> None:
        """Forget the finished spans (between warm-up and measurement)."""
        self._ended.clear()
        self._later.clear()


NULL_TRACER = Tracer(enabled=False)
