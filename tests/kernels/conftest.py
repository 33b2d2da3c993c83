"""What the CUDA source runs on: a CPU, through the shim, and a GPU where there is one."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from addresses import TAKEN
from cpu_device import SCHEDULES, CpuDevice, compiled
from gpu_device import PACKAGES, gpu_device


@pytest.fixture(scope="session", params=["cpu", *(pytest.param(name, marks=pytest.mark.gpu) for name in PACKAGES)])
def device(request):
    """Runs launches on host arrays. Skipped without a compiler, or without a GPU and the package of its name."""
    if request.param != "cpu":
        return gpu_device(request.param)
    library = compiled()
    if library is None:
        pytest.skip("g++ is not installed")
    return CpuDevice(library)


@pytest.fixture(autouse=True)
def _arrays_of_one_test():
    yield
    TAKEN.clear()


def pytest_collection_modifyitems(config, items):
    """The schedules are the shim's: on a GPU a test of all of them runs once."""
    again = {
        item
        for item in items
        if item.path.parent == Path(__file__).parent
        and hasattr(item, "callspec")
        and item.callspec.params.get("device", "cpu") != "cpu"
        and item.callspec.params.get("schedule", SCHEDULES[0]) != SCHEDULES[0]
    }
    if again:
        config.hook.pytest_deselected(items=list(again))
        items[:] = [item for item in items if item not in again]
