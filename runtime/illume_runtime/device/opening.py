"""Implementations of a device by name, imported when they are chosen."""

from __future__ import annotations

import importlib
from typing import Final

from illume_runtime.device.driver import driver
from illume_runtime.device.protocol import Device
from illume_runtime.errors import UsageError

IMPLEMENTATIONS: Final = {
    "cuda-core": "illume_runtime.device.cuda_core",
    "pycuda": "illume_runtime.device.pycuda",
}


def open_device(implementation: str = "cuda-core", number: int = 0) -> Device:
    """A GPU. Raises UnavailableError without a driver, a GPU or the package, UsageError for an unknown name."""
    if implementation not in IMPLEMENTATIONS:
        raise UsageError(f"device layer: got {implementation!r}, expected one of {', '.join(IMPLEMENTATIONS)}")
    driver()
    device: Device = importlib.import_module(IMPLEMENTATIONS[implementation]).open_device(number)
    return device
