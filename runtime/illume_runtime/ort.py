"""Sessions of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from illume_runtime.errors import EngineError, UnavailableError
from illume_runtime.manifest import StageSpec
from illume_runtime.session import Arrays

# ONNX Runtime's errors have no common base class of their own.
ORT_ERRORS = (
    RuntimeError,
    *(
        getattr(ort.capi.onnxruntime_pybind11_state, name)
        for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    ),
)
# Merging equal Q/DQ pairs makes quantized products fall back to float (docs/design.md, Sessions).
DISABLED_OPTIMIZERS = ["CommonSubexpressionElimination"]
ERRORS_ONLY = 3


class OrtSession:
    """A stage in ONNX Runtime; arrays live on the host."""

    def __init__(self, path: Path, spec: StageSpec, provider: str, threads: int | None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        try:
            self._session = ort.InferenceSession(
                path, options, providers=[provider], disabled_optimizers=DISABLED_OPTIMIZERS
            )
        except ORT_ERRORS as error:
            raise EngineError(f"{spec.name}: ONNX Runtime cannot load {path.name}: {error}") from error
        used = self._session.get_providers()
        if used[0] != provider:
            raise UnavailableError(f"{spec.name}: asked for {provider}, ONNX Runtime gave {used[0]}; run illume doctor")
        self._spec = spec

    @property
    def spec(self) -> StageSpec:
        """The stage that it runs."""
        return self._spec

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        """New arrays of all outputs. Raises EngineError."""
        names = [output.name for output in self._spec.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except ORT_ERRORS as error:
            raise EngineError(f"{self._spec.name}: {error}") from error

    def bind(self, inputs: Arrays, outputs: Arrays) -> OrtBoundRun:
        """Fixes inputs and outputs; an array in both is one buffer. Raises EngineError."""
        return OrtBoundRun(self._session, self._spec.name, inputs, outputs)


class OrtBoundRun:
    """An I/O binding over host arrays: nothing is allocated or copied in `run`."""

    def __init__(self, session: Any, name: str, inputs: Arrays, outputs: Arrays) -> None:
        self._session, self._name = session, name
        self._arrays = [*inputs.values(), *outputs.values()]  # the values below borrow their memory
        values: dict[int, Any] = {}

        def value_of(array: NDArray[np.generic]) -> Any:
            if not array.flags.c_contiguous:
                raise ValueError(f"{name}: bound arrays must be contiguous")
            return values.setdefault(id(array), ort.OrtValue.ortvalue_from_numpy(array, "cpu", 0))

        self._binding = session.io_binding()
        for key, array in inputs.items():
            self._binding.bind_ortvalue_input(key, value_of(array))
        for key, array in outputs.items():
            self._binding.bind_ortvalue_output(key, value_of(array))
        self._values = values

    def run(self) -> None:
        """Reads the bound inputs and writes the bound outputs. Raises EngineError."""
        try:
            self._session.run_with_iobinding(self._binding)
        except ORT_ERRORS as error:
            raise EngineError(f"{self._name}: {error}") from error


def cpu_session(path: Path, spec: StageSpec, threads: int | None) -> OrtSession:
    """A session on the CPU."""
    return OrtSession(path, spec, "CPUExecutionProvider", threads)


def cuda_session(path: Path, spec: StageSpec, threads: int | None) -> OrtSession:
    """A session on a GPU. Raises UnavailableError where the installed ONNX Runtime has no CUDA or finds no GPU."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise UnavailableError(
            "device cuda: the installed onnxruntime has no CUDA provider; install one: pip install 'illume-rt[cuda]'"
        )
    return OrtSession(path, spec, "CUDAExecutionProvider", threads)
