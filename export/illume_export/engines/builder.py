"""Engines from a bundle: one process a stage, one cache entry a (graph, builder, GPU, options)."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from illume_export.engines.profiles import Shapes, Wanted, profiles_from_stage
from illume_runtime.bundle import Bundle
from illume_runtime.device.protocol import Device
from illume_runtime.engine_record import EngineRecord, Layer, checked_record, record_path, write_record
from illume_runtime.errors import EngineError, ExportError, MemoryLimitError, UnavailableError, UsageError
from illume_runtime.files import sha256_of
from illume_runtime.memory import check_memory

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
OLDEST = {"tensorrt": (10, 15), "tensorrt-rtx": (1, 7)}  # the first ones that are known to update a cache in place
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")  # that TensorRT for RTX builds for
PRECISIONS = {"float32": "float16", "float16": "float16", "bfloat16": "bfloat16", "int8": "float16"}
TEGRA = Path("/etc/nv_tegra_release")  # there on a Jetson
HOST_BYTES = 400_000_000  # of a build whose weights are nothing
HOST_COPIES = 3  # of the weights, measured from 50 to 620 MB: the graph, what the builder makes of it, the engine
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What all engines of a build have in common. `gpu` is "8.7", or several as "8.6,8.9" for TensorRT for RTX.

    `tuned_for` is the one GPU that TensorRT builds for, as `gpu_of` says it, and empty for TensorRT for RTX.
    """

    target: str
    gpu: str
    wanted: Wanted = field(default_factory=Wanted)
    workspace_bytes: int = 0  # of device memory that a layer may work in; 0: all of it
    tuned_for: str = ""

    @property
    def recorded_gpu(self) -> str:
        """What the records say, and what a machine that loads the engines compares with its own."""
        return self.tuned_for or self.gpu


@dataclass(frozen=True, slots=True)
class PlannedEngine:
    """One engine to build, or to keep where `cached`."""

    stage: str
    path: Path
    onnx: Path
    key: str
    onnx_sha256: str
    version: str
    precision: str
    weight_bytes: int
    device_bytes: int  # that its build takes of the GPU at least: weights, and what a layer may work in
    slots: int
    profiles: list[Shapes]
    cached: bool

    @property
    def host_bytes(self) -> int:
        """Memory that its build takes here, about."""
        return HOST_BYTES + HOST_COPIES * self.weight_bytes


def builder_version(target: str) -> str:
    """The version of the builder. Raises UnavailableError: what is missing, or too old, and what to install."""
    _imported("onnx", target)
    module = _imported(MODULES[target], target)
    version = str(module.__version__)
    oldest = OLDEST[target]
    if tuple(int(part) for part in version.split(".")[:2]) < oldest:
        raise UnavailableError(
            f"target {target}: {MODULES[target]} is {version}, and {'.'.join(map(str, oldest))} or later is needed, "
            f"which updates a cache in place; {_remedy(target)}"
        )
    return version


def engine_plan(bundle: Bundle, output: Path, options: Options, stages: Sequence[str] = ()) -> list[PlannedEngine]:
    """What would be built into `output`. Raises UsageError, UnavailableError, InvalidBundleError, ExportError."""
    unknown = [name for name in stages if name not in bundle.stages]
    if unknown:
        raise UsageError(f"--stages: there is no stage {unknown[0]!r}; the stages are {', '.join(bundle.stages)}")
    version = builder_version(options.target)
    precision = PRECISIONS[bundle.manifest.precision]
    if precision == "bfloat16" and "7.5" in options.gpu.split(","):
        raise UsageError(f"{bundle.name} is bfloat16, which a GPU of compute capability 7.5 does not have")
    found = []
    halved = 2 if bundle.manifest.precision == "float32" else 1
    for name in stages or list(bundle.stages):
        spec = bundle.stage(name)
        profiles = profiles_from_stage(bundle, spec, options.wanted)
        digest = bundle.manifest.files[spec.file].sha256
        slots = bundle.model.max_context
        inputs = [digest, _lowering_sha256(), version, asdict(options), precision, profiles, slots]
        key = sha256(json.dumps(inputs).encode()).hexdigest()
        path = output / f"{name}.engine"
        cached = _is_built(path, options, version, digest, key)
        found.append(
            PlannedEngine(
                stage=name,
                path=path,
                onnx=bundle.stage_path(name),
                key=key,
                onnx_sha256=digest,
                version=version,
                precision=precision,
                weight_bytes=spec.weight_bytes,
                device_bytes=spec.weight_bytes // halved + options.workspace_bytes if options.tuned_for else 0,
                slots=slots,
                profiles=profiles,
                cached=cached,
            )
        )
    return found


def build_engine(
    planned: PlannedEngine, options: Options, on_progress: OnProgress | None = None, device: Device | None = None
) -> EngineRecord:
    """Build one engine and its record, whole or not at all; `device` is the GPU that TensorRT builds on.

    Raises ExportError (stage, layer, reason), EngineError where another process builds it, MemoryLimitError.
    """
    check_memory(planned.host_bytes, f"{planned.stage}: its build", "build on a larger machine")
    if device is not None:
        _check_device_memory(planned, device.free_bytes(), options)
    planned.path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(planned.path), _workshop(planned.path) as folder:
        rtx = options.target == "tensorrt-rtx"
        made = folder / planned.path.name
        gpu = re.sub(r"[^\w.]+", "-", options.recorded_gpu).strip("-")
        timings = planned.path.parent / f"timings-{planned.version}-{gpu}.cache"
        job = {
            "parent": os.getpid(),
            "module": MODULES[options.target],
            "onnx": str(planned.onnx),
            "engine": str(made),
            "slots": planned.slots,
            "precision": planned.precision,
            "profiles": [profile for profile in planned.profiles if profile],
            "workspace_bytes": options.workspace_bytes,
            "gpus": options.gpu.split(","),
            "is_portable": rtx,  # TensorRT builds for the GPU that is here
            "timing_cache": "" if rtx else str(timings),  # TensorRT for RTX measures nothing while it builds
        }
        last = _run_worker(planned.stage, job, on_progress)
        record = EngineRecord(
            stage=planned.stage,
            target=options.target,
            builder=planned.version,
            gpu=options.recorded_gpu,
            key=planned.key,
            onnx_sha256=planned.onnx_sha256,
            engine_sha256=sha256_of(made),
            layers=tuple(Layer(*layer) for layer in last["layers"]),
            precision=planned.precision,
            profiles=tuple(
                {name: tuple(map(tuple, shapes)) for name, shapes in profile.items()} for profile in planned.profiles
            ),
            activation_bytes=tuple(last["activation_bytes"]),
            weight_bytes=last["weight_bytes"],
            attentions=last["attentions"],
            fused=last["fused"],
            caches=last["caches"],
        )
        record_path(planned.path).unlink(missing_ok=True)  # the old engine's: it must not speak for the new one
        made.replace(planned.path)
        write_record(planned.path, record)
    return record


def _check_device_memory(planned: PlannedEngine, free_bytes: int, options: Options) -> None:
    if planned.device_bytes > free_bytes:
        remedy = ", or give a smaller --memory-limit" if options.workspace_bytes else ""
        raise MemoryLimitError(
            f"{planned.stage}: its build takes {planned.device_bytes / 1e6:.0f} MB of the GPU's memory at least, but "
            f"{free_bytes / 1e6:.0f} MB are left; end what else runs there{remedy}"
        )


def _imported(module: str, target: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = (error.name or module).partition(".")[0]
        raise UnavailableError(f"target {target}: the package {name} is not installed; {_remedy(target)}") from None
    except (ImportError, OSError) as error:
        raise UnavailableError(f"target {target}: {module} cannot be loaded: {error}; {_remedy(target)}") from error


def _remedy(target: str) -> str:
    if target == "tensorrt" and TEGRA.exists():
        return "on a Jetson TensorRT comes with JetPack (7.2 for Orin, 7 for Thor): apt install python3-libnvinfer"
    return f"install it with: pip install 'illume-rt[{target}]'"


def _lowering_sha256() -> str:
    """Of the code that decides what is built from a graph."""
    here = Path(__file__).parent
    return sha256(
        b"".join((here / f"{name}.py").read_bytes() for name in ("attention", "lowering", "worker"))
    ).hexdigest()


def _run_worker(stage: str, job: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "illume_export.engines.worker"]
    last: dict[str, Any] = {}
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job))
            process.stdin.close()
            for line in process.stdout:
                last = json.loads(line)
                if "percent" in last and on_progress is not None:
                    on_progress(stage, last["percent"], 100)
            process.wait()
        except BaseException:
            process.kill()
            raise
        complaints.seek(0)
        complaint = complaints.read().strip().rpartition("\n")[2]
    if "error" in last:
        raise ExportError(f"{stage}: TensorRT cannot build it: {last['error']}")
    if process.returncode or "layers" not in last:
        raise ExportError(f"{stage}: the builder's process {_end(process.returncode)}, without an engine: {complaint}")
    return last


def _end(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _is_built(path: Path, options: Options, version: str, digest: str, key: str) -> bool:
    try:
        gpu = options.recorded_gpu
        record = checked_record(path, target=options.target, builder=version, gpu=gpu, onnx_sha256=digest)
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


@contextmanager
def _workshop(path: Path) -> Iterator[Path]:
    """An empty folder beside the engine, gone afterwards; what a killed build left there goes too."""
    folder = path.with_name(f".{path.name}.build")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
