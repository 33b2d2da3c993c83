"""The stages of one bundle, each loaded when it is first used, and the spans that they report."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from illume_runtime.bundle import Bundle
from illume_runtime.manifest import StageSpec
from illume_runtime.session import Arrays, OpenSession, Session, session_from_stage
from illume_runtime.trace import Tracer, Work

if TYPE_CHECKING:
    from illume_runtime.gpu.accelerator import Accelerator


@dataclass(slots=True)
class Stages:
    """Sessions by name; `accelerator` is the GPU that they are on, None on the CPU."""

    bundle: Bundle
    device: str
    threads: int | None
    tracer: Tracer
    open_session: OpenSession = session_from_stage
    accelerator: Accelerator | None = None
    _sessions: dict[str, Session] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Session:
        session = self._sessions.get(name)
        if session is None:
            with self.tracer.span(f"load.{name}", "load"):
                path = self.bundle.stage_path(name)
                session = self.open_session(path, self.bundle.stage(name), self.device, self.threads)
            self._sessions[name] = session
        return session

    def close(self) -> None:
        """Let go of all sessions; one that is used again is loaded again."""
        self._sessions.clear()

    def span(
        self, name: str, stage: StageSpec, rows: int, *, tokens: int = 0, more_bytes: int = 0, **args: int
    ) -> AbstractContextManager[None]:
        """A span that declares the stage's weights plus `more_bytes`, and its FLOPs for `rows` (x `tokens` if any)."""
        if not self.tracer.enabled:
            return self.tracer.span(name)
        return self.tracer.span_of(self.work(name, stage, rows, tokens=tokens, more_bytes=more_bytes, **args))

    def work(
        self, name: str, stage: StageSpec, rows: int, *, tokens: int = 0, more_bytes: int = 0, **args: int
    ) -> Work:
        """What `span` declares, to be kept by a loop that does the same work again and again."""
        factor = {"call": 1, "row": rows, "token": rows * max(tokens, 1)}[stage.flops.per]
        counted: dict[str, Any] = {**args, "tokens": rows * tokens} if tokens else dict(args)
        moved = self[stage.name].moved_bytes + more_bytes
        return Work(name, "stage", moved, stage.flops.count * factor, counted)

    def run(self, name: str, feeds: Arrays, **args: int) -> dict[str, NDArray[np.generic]]:
        """Runs a stage once within its span; rows are the first dimension of the first input."""
        session = self[name]
        first = next(iter(feeds.values()))
        moved = sum(array.nbytes for array in feeds.values())
        with self.span(name, session.spec, first.shape[0], more_bytes=moved, **args):
            return session.run(feeds)
