"""How far a build is, from what TensorRT's progress monitor says: phases within phases, each of so many steps."""

from __future__ import annotations


class BuildProgress:
    """One number that never falls. Phases are known by their names; what is counted is the outermost one."""

    def __init__(self) -> None:
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name: its parent, steps done, steps in all
        self._percent = 0

    def start(self, phase: str, parent: str | None, total: int) -> None:
        """A phase begins, within another one or within none."""
        self._phases[phase] = (parent, 0, max(total, 1))

    def step(self, phase: str, done: int) -> int:
        """So many steps of the phase are done: the percent of the whole build that are."""
        if phase in self._phases:
            parent, _, total = self._phases[phase]
            self._phases[phase] = (parent, done, total)
            self._percent = max(self._percent, int(100 * self._share(phase)))
        return self._percent

    def finish(self, phase: str) -> None:
        """A phase is over; its parent counts that as a step of its own."""
        self._phases.pop(phase, None)

    def _share(self, phase: str) -> float:
        """Of the outermost phase, where this one is the innermost."""
        share, name = 0.0, phase
        while True:
            parent, done, total = self._phases[name]
            share = min((done + share) / total, 1.0)
            if parent is None or parent not in self._phases:
                return share
            name = parent
