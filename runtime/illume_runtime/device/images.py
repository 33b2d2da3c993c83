"""The machine code of our kernels that fits this GPU and this driver."""

from __future__ import annotations

import json
import re

from illume_kernels.build import PREBUILT
from illume_kernels.nvrtc import cubin_from_source
from illume_runtime.device.driver import driver_version
from illume_runtime.errors import UnavailableError

OLDEST = (7, 5)
JETPACK_6 = (8, 7)
JETPACK_6_DRIVER = (12, 6)


def kernel_image(compute_capability: tuple[int, int]) -> bytes:
    """A fatbin or a cubin. Raises UnavailableError: which driver the kernels need, and which one is here."""
    major, minor = compute_capability
    if compute_capability < OLDEST:
        raise UnavailableError(
            f"the GPU has compute capability {major}.{minor}, expected 7.5 or later; use --device cpu"
        )
    here, needed = driver_version(), fatbin_version()
    if here >= needed:
        return (PREBUILT / "kernels.fatbin").read_bytes()
    if compute_capability == JETPACK_6 and here >= JETPACK_6_DRIVER:
        return (PREBUILT / f"jetpack6_sm_{major}{minor}.cubin").read_bytes()
    try:
        return cubin_from_source(compute_capability)
    except RuntimeError as error:
        raise UnavailableError(
            f"the driver is of CUDA {here[0]}.{here[1]}, the kernels were built for CUDA {needed[0]}.{needed[1]}; "
            f"update the driver, or install NVRTC of its own version to compile them here ({error})"
        ) from error


def fatbin_version() -> tuple[int, int]:
    """The CUDA that the fatbin was built with, as (13, 0)."""
    text = json.loads((PREBUILT / "manifest.json").read_text(encoding="utf-8"))["nvcc"]
    found = re.search(r"release (\d+)\.(\d+)", text)
    assert found is not None
    return int(found[1]), int(found[2])
