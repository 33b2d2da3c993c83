"""A stage on a GPU: what a session is to the host, on device memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from illume_runtime.device.array import DeviceArray
from illume_runtime.errors import EngineError
from illume_runtime.session import Arrays, Session

DeviceArrays = Mapping[str, DeviceArray]


class DeviceRun(Protocol):
    """A stage with all inputs and outputs at fixed device addresses."""

    @property
    def is_capturable(self) -> bool:
        """Whether `enqueue` may stand in a captured graph."""

    def enqueue(self) -> None:
        """Put one run on the accelerator's stream; the host does not wait."""


class DeviceSession(Session, Protocol):
    """A session whose arrays may stay on the device."""

    @property
    def max_rows(self) -> int | None:
        """Of a batch; None where there is no limit but the memory."""

    @property
    def slots(self) -> int | None:
        """Slots of its cache where their number is fixed."""

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """Of an input or output on the device."""

    def bind_device(self, inputs: DeviceArrays, outputs: DeviceArrays) -> DeviceRun:
        """A run on these arrays, which the caller keeps; an output at the address of an input is written in place."""


class HostRun:
    """A bound run on host arrays by way of plain runs."""

    def __init__(self, run: Callable[[Arrays], Arrays], inputs: Arrays, outputs: Arrays) -> None:
        self._run, self._inputs, self._outputs = run, inputs, outputs

    def run(self) -> None:
        """Reads the bound inputs and writes the bound outputs."""
        for name, array in self._run(self._inputs).items():
            self._outputs[name][...] = array


def device_session(session: Session) -> DeviceSession:
    """The session as one on the device. Raises EngineError for one that is not."""
    if not hasattr(session, "bind_device"):
        raise EngineError(f"{session.spec.name}: its session cannot keep arrays on the device; use --device cpu")
    return session  # type: ignore[return-value]
