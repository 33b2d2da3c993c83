"""The CUDA source as a CPU runs it, compiled once per session."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cpu_device import CpuDevice, compiled


@pytest.fixture(scope="session")
def device():
    """The kernels behind the shim; skipped without a compiler."""
    library = compiled()
    if library is None:
        pytest.skip("g++ is not installed")
    return CpuDevice(library)
