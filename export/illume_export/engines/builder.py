"""Engines from a bundle: one process a stage, one cache entry a (graph, builder, GPU, options)."""

from __future__ import annotations

import fcntl
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from illume_export.engines.profiles import Shapes, profiles_from_stage
from illume_runtime.bundle import Bundle
from illume_runtime.engine_record import EngineRecord, Layer, checked_record, record_path, write_record
from illume_runtime.errors import EngineError, ExportError, UnavailableError, UsageError
from illume_runtime.files import atomic_write, sha256_of
from illume_runtime.memory import check_memory

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")  # that TensorRT for RTX builds for
HOST_COPIES = 4  # of the weights, about: the graph, the network, the kernels' forms, the engine
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class PlannedEngine:
    """One engine to build, or to keep where `cached`."""

    stage: str
    path: Path
    onnx: Path
    key: str
    onnx_sha256: str
    gpu: str
    weight_bytes: int
    slots: int
    profiles: list[Shapes]
    cached: bool


def builder_version(target: str) -> str:
    """The version of the builder. Raises UnavailableError: which extra to install."""
    try:
        module = importlib.import_module(MODULES[target])
    except ModuleNotFoundError:
        raise UnavailableError(
            f"target {target}: the package {MODULES[target]} is not installed; "
            f"install it with: pip install 'illume-rt[{target}]'"
        ) from None
    except ImportError as error:
        raise UnavailableError(f"target {target}: {MODULES[target]} cannot be loaded: {error}") from error
    return str(module.__version__)


def engine_plan(
    bundle: Bundle, output: Path, target: str, gpu: str, stages: list[str], workspace_bytes: int
) -> list[PlannedEngine]:
    """What would be built into `output`. Raises UsageError, UnavailableError, InvalidBundleError, ExportError."""
    unknown = [name for name in stages if name not in bundle.stages]
    if unknown:
        raise UsageError(f"--stages: there is no stage {unknown[0]!r}; the stages are {', '.join(bundle.stages)}")
    version = builder_version(target)
    found = []
    for name in stages or list(bundle.stages):
        spec = bundle.stage(name)
        profiles = profiles_from_stage(bundle, spec)
        digest = bundle.manifest.files[spec.file].sha256
        options = [digest, target, version, gpu, profiles, workspace_bytes, bundle.model.max_context]
        key = sha256(json.dumps(options).encode()).hexdigest()
        path = output / f"{name}.engine"
        cached = _is_built(path, target, version, gpu, digest, key)
        slots = bundle.model.max_context
        found.append(
            PlannedEngine(
                name, path, bundle.stage_path(name), key, digest, gpu, spec.weight_bytes, slots, profiles, cached
            )
        )
    return found


def build_engine(
    planned: PlannedEngine, target: str, workspace_bytes: int, on_progress: OnProgress | None = None
) -> EngineRecord:
    """Build one engine and its record, whole or not at all.

    Raises ExportError (stage, layer, reason), EngineError where another process builds it, MemoryLimitError.
    """
    version = builder_version(target)
    check_memory(HOST_COPIES * planned.weight_bytes, f"{planned.stage}: its build", "build on a larger machine")
    planned.path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(planned.path), atomic_write(planned.path) as temporary:
        rtx = target == "tensorrt-rtx"
        job = {
            "module": MODULES[target],
            "onnx": str(planned.onnx),
            "engine": str(temporary),
            "slots": planned.slots,
            "precision": "float16",
            "profiles": [profile for profile in planned.profiles if profile],
            "workspace_bytes": workspace_bytes,
            "capabilities": planned.gpu.split(",") if rtx else [],
            "timing_cache": "" if rtx else str(planned.path.parent / "timing.cache"),
        }
        last = _run_worker(planned.stage, job, on_progress)
        layers = tuple(Layer(name, kind, dtype or "") for name, kind, dtype in last["layers"])
        digest = sha256_of(temporary)
        record_path(planned.path).unlink(missing_ok=True)  # the old engine's: it must not speak for the new one
    record = EngineRecord(planned.stage, target, version, planned.gpu, planned.key, planned.onnx_sha256, digest, layers)
    write_record(planned.path, record)
    return record


def _run_worker(stage: str, job: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "illume_export.engines.worker"]
    last: dict[str, Any] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job))
            process.stdin.close()
            for line in process.stdout:
                last = json.loads(line)
                if "phase" in last and on_progress is not None:
                    on_progress(stage, last["done"], last["total"])
        except BaseException:
            process.kill()
            raise
    if "error" in last:
        raise ExportError(f"{stage}: TensorRT cannot build it: {last['error']}")
    if process.returncode or "layers" not in last:
        raise ExportError(f"{stage}: the builder's process ended with {process.returncode} and no engine")
    return last


def _is_built(path: Path, target: str, version: str, gpu: str, digest: str, key: str) -> bool:
    try:
        record = checked_record(path, target=target, builder=version, gpu=gpu, onnx_sha256=digest)
    except EngineError:
        return False  # it will be built
    return record.key == key


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the engine's lock; the system lets it go when the process ends, however that comes. Raises EngineError."""
    with path.with_name(f".{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineError(f"{path}: another process builds it now; wait until it is done") from None
        yield
