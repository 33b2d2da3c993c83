"""Stages as TensorRT engines that `illume build` made; the same code drives TensorRT 10, 11 and TensorRT for RTX."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from illume_runtime.bundle import Bundle
from illume_runtime.device.array import DeviceArray
from illume_runtime.device.dlpack import BFLOAT16
from illume_runtime.device.faults import OUT_OF_MEMORY
from illume_runtime.engine_record import BUILD, checked_record, gpu_of, record_path
from illume_runtime.errors import EngineError, MemoryLimitError, UnavailableError
from illume_runtime.gpu.accelerator import Accelerator
from illume_runtime.gpu.session import DeviceArrays, HostRun
from illume_runtime.manifest import StageSpec
from illume_runtime.session import Arrays

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
NOTHING_SAID = "it does not say why"
DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "INT32": "int32"}


class Engines:
    """The engines of one bundle, and the device memory that their layers share while they work."""

    def __init__(self, bundle: Bundle, accelerator: Accelerator) -> None:
        self._bundle, self._accelerator = bundle, accelerator
        self._folder, self.target = _folder_of(bundle)
        try:
            self.trt: Any = importlib.import_module(MODULES[self.target])
        except ImportError as error:
            raise UnavailableError(
                f"device tensorrt: the package {MODULES[self.target]} cannot be loaded ({error}); "
                f"install it with: pip install 'illume-rt[{self.target}]'"
            ) from error
        self.log = _log_of(self.trt)
        self._runtime = self.trt.Runtime(self.log)
        self._scratch: DeviceArray | None = None

    def session(self, path: Path, spec: StageSpec) -> TensorRtSession:
        """The engine of a stage. Raises EngineError where it is missing, not ours, or not for this machine."""
        engine = self._folder / f"{spec.name}.engine"
        device = self._accelerator.device
        capability = "{}.{}".format(*device.compute_capability)
        checked_record(
            engine,
            target=self.target,
            builder=str(self.trt.__version__),
            gpu=_built_for(engine, capability) if self.target == "tensorrt-rtx" else gpu_of(device),
            onnx_sha256=self._bundle.manifest.files[spec.file].sha256,
        )
        self._accelerator.check_memory(engine.stat().st_size, f"{spec.name}: its engine")
        loaded = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        if loaded is None:
            raise self.failed(f"{engine}: TensorRT cannot load it", f"run: {BUILD} {self.target}")
        return TensorRtSession(loaded, spec, self, self._accelerator)

    def failed(self, what: str, remedy: str = "") -> EngineError | MemoryLimitError:
        """The error for what TensorRT said last, which it said of this alone."""
        said, self.log.last = self.log.last, NOTHING_SAID
        if OUT_OF_MEMORY in said.lower():
            return MemoryLimitError(f"{what}: the GPU is out of memory; ask for fewer at once, or --residency staged")
        return EngineError(f"{what}: {said}{'; ' * bool(remedy)}{remedy}")

    def scratch(self, num_bytes: int) -> DeviceArray:
        """Memory for the layers of whatever engine runs now: work is in order. What was given before stays valid."""
        if self._scratch is None or self._scratch.nbytes < num_bytes:
            self._scratch = self._accelerator.array((max(num_bytes, 1),), np.uint8, "the work of the engines")
        return self._scratch


class TensorRtSession:
    """One engine."""

    def __init__(self, engine: Any, spec: StageSpec, engines: Engines, accelerator: Accelerator) -> None:
        self.engine, self.spec, self._engines, self._accelerator = engine, spec, engines, accelerator
        self.moved_bytes = spec.weight_bytes  # as the bundle stores them
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        expected = [port.name for port in (*spec.inputs, *spec.outputs)]
        if sorted(names) != sorted(expected):
            raise EngineError(
                f"{spec.name}: the engine has {sorted(names)}, expected {sorted(expected)}; build it again"
            )
        self._dtypes = {name: _dtype(engine.get_tensor_dtype(name).name) for name in names}
        caches = [port.name for port in spec.inputs if "_cache_" in port.name]
        self.slots: int | None = int(engine.get_tensor_shape(caches[0])[2]) if caches else None
        first = spec.inputs[0].name
        last = engine.num_optimization_profiles - 1
        self.max_rows: int | None = int(engine.get_tensor_profile_shape(first, last)[2][0])

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """Of an input or output on the device."""
        return self._dtypes[name]

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        """New host arrays of all outputs; the host waits for them. In parts where the engine takes fewer rows."""
        first = self.spec.inputs[0]
        rows, count, most = first.shape[0], len(feeds[first.name]), self.max_rows or len(feeds[first.name])
        if count <= most or isinstance(rows, int):
            return self._run(feeds)
        split = {port.name for port in self.spec.inputs if port.shape[0] == rows}
        parts = [
            self._run({name: array[i : i + most] if name in split else array for name, array in feeds.items()})
            for i in range(0, count, most)
        ]
        return {
            port.name: np.concatenate([part[port.name] for part in parts])
            if port.shape[0] == rows
            else parts[0][port.name]
            for port in self.spec.outputs
        }

    def _run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        made = {name: self._accelerator.uploaded(array.astype(self._dtypes[name])) for name, array in feeds.items()}
        context = self._context(made)
        outputs = {}
        for port in self.spec.outputs:
            shape = tuple(int(size) for size in context.get_tensor_shape(port.name))
            outputs[port.name] = self._accelerator.array(shape, self._dtypes[port.name])
        self._bound(context, made, outputs).enqueue()
        return {name: self._accelerator.downloaded(array) for name, array in outputs.items()}

    def bind(self, inputs: Arrays, outputs: Arrays) -> HostRun:
        """Fixes every input and output to a host array; each run copies them."""
        return HostRun(self.run, inputs, outputs)

    def bind_device(self, inputs: DeviceArrays, outputs: DeviceArrays) -> TensorRtRun:
        """A run on these arrays, with a context of its own. Raises EngineError where no profile fits their shapes."""
        return self._bound(self._context(inputs), inputs, outputs)

    def _context(self, inputs: DeviceArrays) -> Any:
        strategy = self._engines.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self.engine.create_execution_context(strategy)
        if context is None:
            raise self._engines.failed(f"{self.spec.name}: TensorRT gives no context")
        profile = self._profile(inputs)
        done = context.set_optimization_profile_async(profile, self._accelerator.stream.handle)
        self._check(done, f"profile {profile}")
        for name, array in inputs.items():
            self._check(context.set_input_shape(name, array.shape), f"{name} of shape {array.shape}")
        return context

    def _bound(self, context: Any, inputs: DeviceArrays, outputs: DeviceArrays) -> TensorRtRun:
        for name, array in (*inputs.items(), *outputs.items()):
            if array.dtype != self._dtypes[name]:
                raise EngineError(f"{self.spec.name}: {name} is {array.dtype}, the engine takes {self._dtypes[name]}")
            self._check(context.set_tensor_address(name, array.address), f"the address of {name}")
        missing = context.infer_shapes()
        self._check(not missing, f"inputs without {', '.join(missing)}")
        num_bytes = int(context.update_device_memory_size_for_shapes())
        scratch = self._engines.scratch(num_bytes)
        context.set_device_memory(scratch.address, scratch.nbytes)
        capturable = getattr(context, "is_stream_capturable", None)  # TensorRT for RTX compiles some kernels late
        is_capturable = capturable is None or bool(capturable(self._accelerator.stream.handle))
        return TensorRtRun(self, context, (inputs, outputs, scratch), is_capturable)

    def _profile(self, inputs: DeviceArrays) -> int:
        """The last profile that fits: the decoder's second one is for few tokens, and is the quicker there."""
        for profile in reversed(range(self.engine.num_optimization_profiles)):
            if all(self._fits(name, array.shape, profile) for name, array in inputs.items()):
                return profile
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items() if "_cache_" not in name)
        raise EngineError(
            f"{self.spec.name}: the engine was not built for {shapes}; ask for fewer at once, or build it for more: "
            f"{BUILD} {self._engines.target} --batch N"
        )

    def _fits(self, name: str, shape: tuple[int, ...], profile: int) -> bool:
        if all(size >= 0 for size in self.engine.get_tensor_shape(name)):
            return tuple(self.engine.get_tensor_shape(name)) == shape
        low, _, high = (tuple(dims) for dims in self.engine.get_tensor_profile_shape(name, profile))
        return all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True))

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise self._engines.failed(f"{self.spec.name}: TensorRT refuses {what}")

    def enqueue(self, context: Any) -> None:
        """Put a run of a context on the stream. Raises EngineError where TensorRT refuses it."""
        self._check(context.execute_async_v3(self._accelerator.stream.handle), "the run")


class TensorRtRun:
    """A context with its shapes and addresses set."""

    def __init__(self, session: TensorRtSession, context: Any, kept: tuple[Any, ...], is_capturable: bool) -> None:
        self._session, self._context, self._kept = session, context, kept
        self.is_capturable = is_capturable

    def enqueue(self) -> None:
        """Put one run on the stream."""
        self._session.enqueue(self._context)


def _folder_of(bundle: Bundle) -> tuple[Path, str]:
    folder = bundle.path.resolve()
    engines = folder.with_name(f"{folder.name}-engines")
    for target in MODULES:
        if (engines / target).is_dir():
            return engines / target, target
    raise EngineError(f"device tensorrt: there are no engines in {engines}; run: {BUILD} tensorrt")


def _built_for(engine: Path, capability: str) -> str:
    """The GPUs of the record where this one is among them, else this one, which the record then differs from."""
    try:
        gpus = str(json.loads(record_path(engine).read_text(encoding="utf-8"))["gpu"])
    except (OSError, ValueError, KeyError, TypeError):
        return capability  # `checked_record` says what is wrong with it
    return gpus if capability in gpus.split(",") else capability


def _dtype(name: str) -> np.dtype[Any]:
    return BFLOAT16 if name == "BF16" else np.dtype(DTYPES[name])


def _log_of(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the last error."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = NOTHING_SAID

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = message

    return Log()
