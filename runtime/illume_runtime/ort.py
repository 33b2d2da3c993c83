"""Sessions of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import cache
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from illume_runtime.cpu_decoder import cpu_decoder
from illume_runtime.errors import EngineError, IllumeError, InvalidBundleError, MemoryLimitError, UnavailableError
from illume_runtime.limits import LARGE_BYTES
from illume_runtime.manifest import StageSpec, TensorSpec
from illume_runtime.mapped_products import mapped_graph
from illume_runtime.memory import count_mapped, fits, freed_at_once
from illume_runtime.plan.weights import weight_bytes_of_file
from illume_runtime.session import Arrays

# ONNX Runtime's errors have no common base class of their own.
ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        kind
        for kind in vars(ort.capi.onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)
OUT_OF_MEMORY = ("failed to allocate memory", "bad_alloc", "bad allocation", "out of memory")  # in lower case
TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}
# Merging equal Q/DQ pairs makes quantized products fall back to float, and so does making a Gemm of a product and its
# bias, and leaving an Identity out; moving pairs past reshapes writes nodes that the same ONNX Runtime refuses from
# opset 21 on (docs/design.md, Sessions).
DISABLED_OPTIMIZERS = [
    "CommonSubexpressionElimination",
    "QDQPropagationTransformer",
    "MatMulAddFusion",
    "EliminateIdentity",
]
UNPACKED = ("session.disable_prepacking", "1")  # float32 weights stay where they are mapped from disk
# A row's scale of int8 weights is stored again for each group: with 32 weights in each a step takes a sixth longer.
WIDE_GROUPS = ("session.qdq_matmulnbits_block_size", "128")
SHRINK = ("memory.enable_memory_arena_shrinkage", "cpu:0")  # activations go back when a call is over
# In the blocked layout of convolutions its resized maps are all made first: twice the memory.
ROW_LAYOUT = ("vq_decoder",)
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # of a graph that is not read from a file
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ASSIGNMENT = ("session.record_ep_graph_assignment_info", "1")  # which provider computes what
REPLACE = "pip uninstall -y onnxruntime && pip install --force-reinstall --no-deps onnxruntime-gpu"
LOG_SEVERITY = 4  # fatal: an error is raised, and need not be printed by the engine as well


class OrtSession:
    """A stage in ONNX Runtime; arrays live on the host."""

    def __init__(
        self, path: Path, spec: StageSpec, provider: str, threads: int | None, provider_options: Mapping[str, str] = {}
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_SEVERITY
        self._run_options = ort.RunOptions()
        is_large = provider == CPU and spec.weight_bytes >= LARGE_BYTES
        if is_large:
            self._run_options.add_run_config_entry(*SHRINK)
            options.add_session_config_entry(*WIDE_GROUPS)
        if spec.name in ROW_LAYOUT:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        model: Path | bytes = path
        self._moved_bytes = spec.weight_bytes
        if provider != CPU:
            options.add_session_config_entry(*ASSIGNMENT)
        if provider == CPU:
            graph = cpu_decoder(path) if spec.name == "decoder" and attends_by_counts() else None
            model, self._moved_bytes, mapped_bytes = _placed(path, graph, spec, options)
            count_mapped(self, mapped_bytes)
            if model != path:
                options.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent))
        providers = [(provider, dict(provider_options))]
        try:
            with freed_at_once() if is_large else nullcontext():
                self._session = ort.InferenceSession(
                    model, options, providers=providers, disabled_optimizers=DISABLED_OPTIMIZERS
                )
        except ORT_ERRORS as error:
            raise _typed(error, f"{spec.name}: ONNX Runtime cannot load {path.name}") from error
        used = self._session.get_providers()
        if used[0] != provider:
            raise UnavailableError(f"{spec.name}: asked for {provider}, ONNX Runtime gave {used[0]}; run illume doctor")
        for kind, nodes, ports in (
            ("inputs", self._session.get_inputs(), spec.inputs),
            ("outputs", self._session.get_outputs(), spec.outputs),
        ):
            _check_ports(f"stages.{spec.name}.{kind}", nodes, ports)
        self._spec = spec

    @property
    def spec(self) -> StageSpec:
        """The stage that it runs."""
        return self._spec

    @property
    def moved_bytes(self) -> int:
        """Bytes of weights that a call reads: on a CPU those in half precision are float32 unless they are mapped."""
        return self._moved_bytes

    @property
    def inference(self) -> Any:
        """ONNX Runtime's own session, for those who bind device memory."""
        return self._session

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
        """New arrays of all outputs. Raises EngineError, MemoryLimitError."""
        names = [output.name for output in self._spec.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(feeds), self._run_options), strict=True))
        except ORT_ERRORS as error:
            raise _typed(error, self._spec.name) from error

    def bind(self, inputs: Arrays, outputs: Arrays) -> OrtBoundRun:
        """Fixes inputs and outputs; an array in both is one buffer. Raises EngineError, MemoryLimitError."""
        return OrtBoundRun(self._session, self._spec.name, inputs, outputs)


class OrtBoundRun:
    """An I/O binding over host arrays: nothing is allocated or copied in `run`."""

    def __init__(self, session: Any, name: str, inputs: Arrays, outputs: Arrays) -> None:
        self._session, self._name = session, name
        self._arrays = [*inputs.values(), *outputs.values()]  # the values below borrow their memory
        if not all(array.flags.c_contiguous for array in self._arrays):
            raise ValueError(f"{name}: an array is not contiguous; bind one that is")
        values: dict[int, Any] = {}

        def value_of(array: NDArray[np.generic]) -> Any:
            return values.setdefault(id(array), ort.OrtValue.ortvalue_from_numpy(array, "cpu", 0))

        self._binding = session.io_binding()
        try:
            for key, array in inputs.items():
                self._binding.bind_ortvalue_input(key, value_of(array))
            for key, array in outputs.items():
                self._binding.bind_ortvalue_output(key, value_of(array))
        except ORT_ERRORS as error:
            raise _typed(error, name) from error
        self._values = values

    def run(self) -> None:
        """Reads the bound inputs and writes the bound outputs. Raises EngineError, MemoryLimitError."""
        try:
            self._session.run_with_iobinding(self._binding)
        except ORT_ERRORS as error:
            raise _typed(error, self._name) from error


@contextmanager
def typed_ort_errors(where: str) -> Iterator[None]:
    """Within it ONNX Runtime's errors become ours."""
    try:
        yield
    except ORT_ERRORS as error:
        raise _typed(error, where) from error


def _typed(error: Exception, where: str) -> IllumeError:
    """Our error for one of ONNX Runtime's."""
    if any(words in str(error).lower() for words in OUT_OF_MEMORY):
        return MemoryLimitError(f"{where}: out of memory; draw fewer pictures at once, or close other programs")
    return EngineError(f"{where}: {error}")


def _check_ports(where: str, nodes: Sequence[Any], ports: Sequence[TensorSpec]) -> None:
    """Raises InvalidBundleError where a graph is not what the manifest says of it; a named dimension fits any."""
    got = [TensorSpec(node.name, TYPES.get(node.type, node.type), tuple(node.shape)) for node in nodes]
    for found, port in zip_longest(got, ports):
        fits = (
            found is not None
            and port is not None
            and (found.name, found.dtype, len(found.shape)) == (port.name, port.dtype, len(port.shape))
            and all(a == b for a, b in zip(found.shape, port.shape, strict=True) if isinstance(a, int))
        )
        if not fits:
            raise InvalidBundleError(
                f"{where}: the graph has {_shown(found)}, expected {_shown(port)}; export the checkpoint again"
            )


def _shown(port: TensorSpec | None) -> str:
    return "no more" if port is None else f"{port.name} {port.dtype} {list(port.shape)}"


def cpu_session(path: Path, spec: StageSpec, threads: int | None) -> OrtSession:
    """A session on the CPU with at most `threads` threads; a small stage of the token loop has one."""
    return OrtSession(path, spec, CPU, 1 if _is_small_step(spec) else threads)


def _placed(
    path: Path, rewritten: bytes | None, spec: StageSpec, options: ort.SessionOptions
) -> tuple[Path | bytes, int, int]:
    """Where the weights of a stage go on a CPU: the graph to load, bytes that a call reads, bytes that stay mapped.

    They are packed for products, float32, where that fits into the memory that is left. Otherwise they stay in their
    file, if they lie beside the graph: float32 as it is, matrices in half precision as blocks (`mapped_products`).
    `rewritten` is the graph to load in place of the file's.
    """
    graph = path if rewritten is None else rewritten
    if not _may_be_half(spec) and fits(2 * spec.weight_bytes):
        return graph, spec.weight_bytes, 0
    size = weight_bytes_of_file(path)
    if fits(size.held + size.largest):
        return graph, size.held, 0
    if size.mappable:
        mapped = mapped_graph(path.read_bytes() if rewritten is None else rewritten)
        return mapped, size.held - size.mappable, size.mappable
    options.add_session_config_entry(*UNPACKED)
    return graph, size.held, size.stored if size.held == size.stored else 0


def _may_be_half(spec: StageSpec) -> bool:
    """Whether weights of a stage may be stored in half precision: its graph knows."""
    return 1.5 * spec.params < spec.weight_bytes < 3 * spec.params


def _is_small_step(spec: StageSpec) -> bool:
    in_token_loop = spec.name == "decoder" or spec.name.startswith("head_")
    return in_token_loop and spec.weight_bytes < LARGE_BYTES  # over before a second thread is awake


def cuda_session(
    path: Path, spec: StageSpec, threads: int | None, provider_options: Mapping[str, str] = {}
) -> OrtSession:
    """A session on a GPU. Raises UnavailableError where the installed ONNX Runtime has no CUDA or finds no GPU."""
    check_cuda_provider()
    said = _load_cuda_libraries()
    ort.set_default_logger_severity(LOG_SEVERITY)  # a provider that cannot be loaded is an error below
    try:
        return OrtSession(path, spec, CUDA, threads, provider_options)
    except UnavailableError as error:
        raise UnavailableError(f"{error}{': ' * bool(said)}{said}") from error


def attends_by_counts() -> bool:
    """Whether this ONNX Runtime has the operator that `cpu_decoder` writes, as 1.32 has; `onnxruntime-gpu` lags behind.

    Before that the decoder runs on a CPU as it was exported.
    """
    major, minor = ort.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (1, 32)


@cache
def _load_cuda_libraries() -> str:
    """Load those of NVIDIA's wheels, where they are; the first thing that ONNX Runtime says of what it did not find."""
    said = StringIO()
    with redirect_stdout(said):  # it prints
        getattr(ort, "preload_dlls", lambda: None)()  # not in NVIDIA's own builds
    return next(iter(said.getvalue().strip().splitlines()), "")


def why_no_cuda_provider() -> str:
    """Why the installed ONNX Runtime has no CUDA, and what to run; empty where it has."""
    if CUDA in ort.get_available_providers():
        return ""
    from importlib.metadata import PackageNotFoundError, version  # only here: it is slow to import

    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        return f"the installed onnxruntime has no CUDA provider; run: pip install 'illume-rt[cuda]' && {REPLACE}"
    return f"the files of onnxruntime lie over those of onnxruntime-gpu, in the same folder; run: {REPLACE}"


def check_cuda_provider() -> None:
    """Raises UnavailableError where the installed ONNX Runtime has no CUDA."""
    if reason := why_no_cuda_provider():
        raise UnavailableError(f"device cuda: {reason}")
