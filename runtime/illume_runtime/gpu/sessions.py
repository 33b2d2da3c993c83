"""Sessions of a bundle on a GPU, by device."""

from __future__ import annotations

from pathlib import Path

from illume_runtime.bundle import Bundle
from illume_runtime.errors import UnavailableError, UsageError
from illume_runtime.gpu.accelerator import Accelerator, open_accelerator
from illume_runtime.manifest import StageSpec
from illume_runtime.session import OpenSession, Session


def gpu_sessions(bundle: Bundle, device: str) -> tuple[Accelerator, OpenSession]:
    """The GPU and what opens stages on it. Raises UnavailableError, EngineError; another device is never taken."""
    if device == "cuda":
        from illume_runtime.gpu.ort_cuda import ort_cuda_session
        from illume_runtime.ort import check_cuda_provider

        check_cuda_provider()
        accelerator = _opened(device)

        def open_cuda(path: Path, spec: StageSpec, device: str, threads: int | None) -> Session:
            return ort_cuda_session(path, spec, accelerator)

        return accelerator, open_cuda
    if device == "tensorrt":
        from illume_runtime.gpu.tensorrt import Engines

        accelerator = _opened(device)
        engines = Engines(bundle, accelerator)

        def open_engine(path: Path, spec: StageSpec, device: str, threads: int | None) -> Session:
            return engines.session(path, spec)

        return accelerator, open_engine
    raise UsageError(f"device: got {device!r}, expected one of cpu, cuda, tensorrt")


def _opened(device: str) -> Accelerator:
    try:
        return open_accelerator()
    except UnavailableError as error:
        raise UnavailableError(f"device {device}: {error}") from error
