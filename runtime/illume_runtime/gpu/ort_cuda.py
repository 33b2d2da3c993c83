"""Stages in ONNX Runtime's CUDA provider, on device memory and on our stream.

ONNX Runtime captures each binding in a graph of its own (`gpu_graph_id`), so that its runs are not captured by us.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from illume_runtime.errors import EngineError
from illume_runtime.gpu.accelerator import Accelerator
from illume_runtime.gpu.session import DeviceArrays, HostRun
from illume_runtime.manifest import StageSpec
from illume_runtime.ort import CUDA, OrtSession, cuda_session, typed_ort_errors
from illume_runtime.session import Arrays

SHAPE_OPERATORS = frozenset(  # of a few numbers each, which ONNX Runtime keeps on the host on purpose
    (
        *("Add", "Cast", "Concat", "Constant", "Div", "Equal", "Gather", "Mul", "Range", "ReduceProd", "Reshape"),
        *("Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"),
    )
)
RUNS_BEFORE_CAPTURE = 2  # a prefill's shape may never come again
UNCAPTURED = -1
_graph_ids = count(1)


class OrtCudaSession:
    """A stage with its weights on the GPU."""

    max_rows: int | None = None

    def __init__(self, session: OrtSession, accelerator: Accelerator) -> None:
        self._session, self._accelerator = session, accelerator
        self.spec, self.moved_bytes = session.spec, session.moved_bytes
        self._dtypes = {port.name: np.dtype(port.dtype) for port in (*self.spec.inputs, *self.spec.outputs)}
        first = next((port.shape for port in self.spec.inputs if "_cache_" in port.name), ())
        self.slots = first[2] if len(first) == 4 and isinstance(first[2], int) else None

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        """New host arrays of all outputs; the host waits for them."""
        names = [output.name for output in self.spec.outputs]
        with typed_ort_errors(self.spec.name):
            found = self._session.inference.run(names, dict(feeds), _options(UNCAPTURED, waits=True))
        return dict(zip(names, found, strict=True))

    def bind(self, inputs: Arrays, outputs: Arrays) -> HostRun:
        """Fixes every input and output to a host array; each run copies them."""
        return HostRun(self.run, inputs, outputs)

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """Of an input or output on the device."""
        return self._dtypes[name]

    def bind_device(self, inputs: DeviceArrays, outputs: DeviceArrays) -> OrtCudaRun:
        """A run on these arrays."""
        return OrtCudaRun(self._session, inputs, outputs)


class OrtCudaRun:
    """An I/O binding over device memory."""

    is_capturable = False

    def __init__(self, session: OrtSession, inputs: DeviceArrays, outputs: DeviceArrays) -> None:
        self._session, self._arrays = session, (inputs, outputs)
        self._binding = session.inference.io_binding()
        with typed_ort_errors(session.spec.name):
            for bind, arrays in ((self._binding.bind_input, inputs), (self._binding.bind_output, outputs)):
                for name, array in arrays.items():
                    bind(name, "cuda", 0, array.dtype, list(array.shape), array.address)
        self._num_runs = 0
        self._graph_id = UNCAPTURED
        self._options = _options(UNCAPTURED)

    def enqueue(self) -> None:
        """Put one run on the stream."""
        self._num_runs += 1
        if self._num_runs > RUNS_BEFORE_CAPTURE and self._graph_id == UNCAPTURED:
            self._graph_id = next(_graph_ids)
            self._options = _options(self._graph_id)
        with typed_ort_errors(self._session.spec.name):
            self._session.inference.run_with_iobinding(self._binding, self._options)


def _options(graph_id: int, *, waits: bool = False) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    options.add_run_config_entry("disable_synchronize_execution_providers", "0" if waits else "1")
    return options


def ort_cuda_session(path: Path, spec: StageSpec, accelerator: Accelerator) -> OrtCudaSession:
    """The stage on the accelerator. Raises UnavailableError, EngineError, MemoryLimitError."""
    accelerator.check_memory(spec.weight_bytes, spec.name)
    options = {"device_id": "0", "user_compute_stream": str(accelerator.stream.handle)}
    is_repeated = spec.name in ("decoder", "denoiser") or spec.name.startswith("head_")
    if is_repeated:
        options["enable_cuda_graph"] = "1"
    session = cuda_session(path, spec, None, options)
    if is_repeated:
        _check_all_on_the_gpu(session)
    return OrtCudaSession(session, accelerator)


def _check_all_on_the_gpu(session: OrtSession) -> None:
    """Raises EngineError where a step would wait for the host: ONNX Runtime moves what has no CUDA kernel there."""
    elsewhere = {
        node.op_type
        for part in session.inference.get_provider_graph_assignment_info()
        if part.ep_name != CUDA
        for node in part.get_nodes()
    }
    if missing := sorted(elsewhere - SHAPE_OPERATORS):
        raise EngineError(
            f"{session.spec.name}: this ONNX Runtime ({ort.__version__}) has no CUDA kernel for {', '.join(missing)}; "
            "use --device tensorrt, or install another onnxruntime-gpu"
        )
