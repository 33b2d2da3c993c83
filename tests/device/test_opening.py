"""Opening a device: what is missing is named, in one line."""

import sys

import pytest

from illume_runtime.device import driver, faults, opening
from illume_runtime.device.packages import package
from illume_runtime.errors import EngineError, MemoryLimitError, UnavailableError, UsageError
from illume_runtime.gpu.accelerator import open_accelerator


def test_without_a_driver_nothing_is_imported(monkeypatch):
    monkeypatch.setattr(driver, "LIBRARY", "libnodriver.so.1")
    for implementation in opening.IMPLEMENTATIONS:
        with pytest.raises(UnavailableError, match=r"no NVIDIA driver: libnodriver\.so\.1 is not here; install"):
            opening.open_device(implementation)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(UsageError, match="got 'opencl', expected one of cuda-core, pycuda"):
        opening.open_device("opencl")


def test_the_variable_names_the_implementation(monkeypatch):
    monkeypatch.setenv("ILLUME_DEVICE_LAYER", "opencl")
    with pytest.raises(UsageError, match="got 'opencl', expected one of cuda-core, pycuda"):
        open_accelerator()


@pytest.mark.parametrize(("implementation", "extra"), [("cuda-core", "cuda"), ("pycuda", "pycuda")])
def test_a_missing_package_says_which_extra(monkeypatch, implementation, extra):
    package.cache_clear()
    monkeypatch.setattr(opening, "driver", lambda: None)
    for name in ("cuda.core", "cuda.bindings.driver", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnavailableError, match=rf"not installed; install it with: pip install 'illume-rt\[{extra}\]'"):
        opening.open_device(implementation)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: no"), MemoryLimitError, "work: the GPU is out of memory; draw fewer"),
        (RuntimeError("cuMemAlloc failed: out of memory"), MemoryLimitError, "work: the GPU is out of memory"),
        (RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU"), UnavailableError, "work: the driver cannot run these kernels"),
        (RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION"), UnavailableError, "work: the driver cannot run these"),
        (RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS"), EngineError, "work: CUDA_ERROR_ILLEGAL_ADDRESS"),
        (UsageError("ours"), UsageError, "^ours$"),
    ],
    ids=["core", "pycuda", "binary", "ptx", "address", "ours"],
)
def test_errors_of_the_driver_become_ours(error, kind, message):
    with pytest.raises(kind, match=message), faults.typed_errors("work", RuntimeError, UsageError):
        raise error
