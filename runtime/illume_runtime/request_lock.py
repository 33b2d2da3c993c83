"""One request at a time: what a pipeline's caches and bound buffers ask for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from illume_runtime.errors import UsageError


class RequestLock:
    """Requests of several threads wait for each other; what would never end, or end badly, raises UsageError.

    That is a request from within a callback of a request, a request after `close`, and a request in a process that
    was forked off after loading: the engine's threads do not exist there. `current` makes the device of the pipeline
    that of the thread of a request.
    """

    def __init__(self, current: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._current = current
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._process = os.getpid()
        self._closed = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold the lock for the length of a request. Raises UsageError."""
        if os.getpid() != self._process:
            raise UsageError(
                f"the pipeline was loaded in process {self._process} and this is its fork {os.getpid()}; "
                "load it after forking, or start processes with the method 'spawn'"
            )
        if self._owner == threading.get_ident():
            raise UsageError("the pipeline is at work for this very caller; make the next request after the callback")
        with self._lock, self._current():
            if self._closed:
                raise UsageError("the pipeline is closed; load the bundle again")
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None

    def close(self) -> None:
        """Let no further request begin; waits for the one that runs. Raises UsageError within a callback."""
        if not self._closed:
            with self.request():
                self._closed = True
