"""Our errors for those of the driver, whatever package brings them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from illume_runtime.errors import EngineError, IllumeError, MemoryLimitError, UnavailableError

OUT_OF_MEMORY = "out of memory"
UNFIT_IMAGES = (
    "no binary for gpu",
    "no kernel image",
    "unsupported ptx version",
    "unsupported toolchain",
    "invalid ptx",
    "ptx jit",
    "invalid image",
    "kernel image is invalid",
)


@contextmanager
def typed_errors(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Within it an error of the `kinds` becomes one of ours, with `what` before it."""
    try:
        yield
    except kinds as error:
        if isinstance(error, IllumeError):
            raise
        raise _typed(error, what) from error


def checked(what: str, result: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of a call of the driver. Raises MemoryLimitError, EngineError."""
    code, *values = result
    if int(code) != 0:
        with typed_errors(what, RuntimeError):
            raise RuntimeError(getattr(code, "name", str(code)))
    return tuple(values)


def _typed(error: Exception, what: str) -> IllumeError:
    words = str(error).replace("_", " ").lower()
    if OUT_OF_MEMORY in words or isinstance(error, MemoryError):
        return MemoryLimitError(
            f"{what}: the GPU is out of memory; draw fewer pictures at once, or end what else uses it (nvidia-smi)"
        )
    if any(found in words for found in UNFIT_IMAGES):
        return UnavailableError(f"{what}: the driver cannot run these kernels ({error}); see illume doctor")
    return EngineError(f"{what}: {error}")
