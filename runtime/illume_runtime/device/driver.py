"""What the NVIDIA driver says of the machine, asked of its own library: no package is needed."""

from __future__ import annotations

import ctypes

from illume_runtime.errors import UnavailableError

LIBRARY = "libcuda.so.1"
MAJOR, MINOR = 75, 76  # CUdevice_attribute: compute capability


def driver() -> ctypes.CDLL:
    """The driver's library, initialized. Raises UnavailableError without a driver or a GPU."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise UnavailableError(f"no NVIDIA driver: {LIBRARY} is not here; install the driver of your GPU") from None
    code = library.cuInit(0)
    if code:
        raise UnavailableError(f"the NVIDIA driver finds no GPU that can be used (cuInit gave {code}); see nvidia-smi")
    return library


def driver_version() -> tuple[int, int]:
    """The newest CUDA that the driver knows, as (13, 0). Raises UnavailableError."""
    value = ctypes.c_int()
    code = driver().cuDriverGetVersion(ctypes.byref(value))
    if code:
        raise UnavailableError(f"the version of the NVIDIA driver cannot be read (the driver gave {code})")
    return value.value // 1000, value.value % 1000 // 10


def compute_capability(device: int = 0) -> str:
    """As in '8.7'. Raises UnavailableError."""
    library = driver()
    values = []
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int()
        code = library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        if code:
            raise UnavailableError(f"GPU {device}: its compute capability cannot be read (the driver gave {code})")
        values.append(value.value)
    return f"{values[0]}.{values[1]}"
