"""Implementations of a device by name, imported when they are chosen."""

from __future__ import annotations

import importlib
import os
from typing import Final

from illume_runtime.device.driver import driver
from illume_runtime.device.protocol import Device
from illume_runtime.errors import UsageError

LAYER_VARIABLE: Final = "ILLUME_DEVICE_LAYER"
IMPLEMENTATIONS: Final = {
    "cuda-core": "illume_runtime.device.cuda_core",
    "pycuda": "illume_runtime.device.pycuda",
}


def open_device(implementation: str | None = None, number: int = 0) -> Device:
    """A GPU, through what ILLUME_DEVICE_LAYER says where nothing is said here (cuda-core).

    Raises UnavailableError without a driver, a GPU or the package, UsageError for an unknown name.
    """
    implementation = implementation or os.environ.get(LAYER_VARIABLE) or "cuda-core"
    if implementation not in IMPLEMENTATIONS:
        raise UsageError(f"device layer: got {implementation!r}, expected one of {', '.join(IMPLEMENTATIONS)}")
    driver()
    device: Device = importlib.import_module(IMPLEMENTATIONS[implementation]).open_device(number)
    return device
