"""The stages of one bundle, each loaded when it is first used, and the spans that they report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from illume_runtime.bundle import Bundle
from illume_runtime.manifest import StageSpec
from illume_runtime.residency import Residency, phase_of
from illume_runtime.session import Arrays, OpenSession, Session, session_from_stage
from illume_runtime.trace import Tracer, Work

if TYPE_CHECKING:
    from illume_runtime.gpu.accelerator import Accelerator


@dataclass(slots=True)
class Stages:
    """Sessions by name; `accelerator` is the GPU that they are on, None on the CPU.

    `staged`: before a stage is loaded those of other phases are given up, but for a phase `in_use`.
    """

    bundle: Bundle
    device: str
    threads: int | None
    tracer: Tracer
    open_session: OpenSession = session_from_stage
    accelerator: Accelerator | None = None
    residency: Residency = "all"
    _sessions: dict[str, Session] = field(default_factory=dict)
    _holders: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    _phase_in_use: str | None = None

    def __getitem__(self, name: str) -> Session:
        session = self._sessions.get(name)
        if session is None:
            self._make_room(phase_of(name))
            with self.tracer.span(f"load.{name}", "load"):
                path = self.bundle.stage_path(name)
                session = self.open_session(path, self.bundle.stage(name), self.device, self.threads)
            self._sessions[name] = session
        return session

    def close(self) -> None:
        """Let go of all sessions; one that is used again is loaded again."""
        self._sessions.clear()

    def held_by(self, phase: str, let_go: Callable[[], None]) -> None:
        """Somebody keeps what is bound to the sessions of a phase: `let_go` is called before they are given up."""
        self._holders.append((phase, let_go))

    @contextmanager
    def in_use(self, phase: str) -> Iterator[None]:
        """Within it a phase stays, whatever is loaded beside it."""
        before, self._phase_in_use = self._phase_in_use, phase
        try:
            yield
        finally:
            self._phase_in_use = before

    def _make_room(self, phase: str) -> None:
        """Give up what is not of this phase, where stages are not to stay."""
        if self.residency == "all":
            return
        others = {phase_of(name) for name in self._sessions} - {phase, self._phase_in_use}
        for held, let_go in self._holders:
            if held in others:
                let_go()
        self._sessions = {name: one for name, one in self._sessions.items() if phase_of(name) not in others}

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
