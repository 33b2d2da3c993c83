"""What runs a stage: a session, made by name and device."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from illume_runtime.errors import UnavailableError, UsageError
from illume_runtime.manifest import StageSpec

Arrays = Mapping[str, NDArray[np.generic]]


class BoundRun(Protocol):
    """A stage with all its inputs and outputs bound: what runs in a loop."""

    def run(self) -> None:
        """Reads the bound inputs and writes the bound outputs."""


class Session(Protocol):
    """One stage, loaded."""

    @property
    def spec(self) -> StageSpec:
        """The stage that it runs."""

    @property
    def moved_bytes(self) -> int:
        """Bytes of weights that a call reads from memory."""

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        """New arrays of all outputs."""

    def bind(self, inputs: Arrays, outputs: Arrays) -> BoundRun:
        """Fixes every input and output to an array, which the caller keeps and fills.

        An output that is bound to the array of an input is written in place.
        """


OpenSession = Callable[[Path, StageSpec, str, int | None], Session]

# Device -> "module:function", imported when it is chosen; the function makes a Session from (path, spec, threads).
FACTORIES: Final = {
    "cpu": "illume_runtime.ort:cpu_session",
    "cuda": "illume_runtime.ort:cuda_session",
}


def session_from_stage(path: Path, spec: StageSpec, device: str, threads: int | None) -> Session:
    """A session of the stage on the device asked for, and on no other. Raises UnavailableError, UsageError."""
    if device == "tensorrt":
        raise UnavailableError("device tensorrt: its engines are opened by a whole pipeline, not stage by stage")
    if device not in FACTORIES:
        raise UsageError(f"device: got {device!r}, expected one of {', '.join((*FACTORIES, 'tensorrt'))}")
    module, function = FACTORIES[device].split(":")
    session: Session = getattr(importlib.import_module(module), function)(path, spec, threads)
    return session
