"""Work that is done again and again: enqueued once, then captured and replayed.

What cannot be captured (a session that captures by itself) is enqueued between graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from illume_runtime.device.protocol import Stream

Operation = tuple[Callable[[], None], bool]  # what enqueues it, and whether it may be captured


class Program:
    """Operations in order. The first run enqueues them (libraries prepare themselves then), the second captures."""

    def __init__(self, stream: Stream, operations: list[Operation]) -> None:
        self._stream = stream
        self._operations = operations
        self._parts: list[Callable[[], None]] = []
        self._num_runs = 0

    def run(self) -> None:
        """Enqueue it all; the host does not wait."""
        self._num_runs += 1
        if self._num_runs == 1:
            for enqueue, _ in self._operations:
                enqueue()
            return
        if self._num_runs == 2:
            self._parts = self._captured()
        for part in self._parts:
            part()

    def _captured(self) -> list[Callable[[], None]]:
        parts: list[Callable[[], None]] = []
        for is_capturable, group in groupby(self._operations, key=lambda operation: operation[1]):
            work = [enqueue for enqueue, _ in group]
            if not is_capturable:
                parts += work
                continue

            def enqueue_all(work: list[Callable[[], None]] = work) -> None:
                for enqueue in work:
                    enqueue()

            parts.append(self._stream.captured(enqueue_all).replay)
        return parts
