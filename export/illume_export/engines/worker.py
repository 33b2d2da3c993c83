"""Builds one engine in a process of its own, as a graph can end the parser's process.

Reads a job (JSON) from standard input; prints JSON lines: {"percent"} while it builds, and at the end what the record
says of the engine, or {"error": text}.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from illume_export.engines.attention import allow_decomposition, group_queries, heads_of
from illume_export.engines.build_progress import BuildProgress
from illume_export.engines.lowering import check_types, to_half, with_slots
from illume_runtime.errors import ExportError
from illume_runtime.files import atomic_write

LAYER = re.compile(r"Name: ([^,]+), LayerType: (\w+), Inputs: \[(.*?)\], Constants: \[(.*?)\], Outputs: \[")
DTYPE = re.compile(r"Datatype: (\w+)")
QUANTIZED = ("Int4", "Int8", "FP8")
ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")
WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
FUSED = "_mha_"  # in the name of a kernel that is a whole attention
UNUSED = "Unused Input"
INLINE_BYTES = 1024  # of a constant that stays in the graph's own file
PR_SET_PDEATHSIG = 1


def build(job: dict[str, Any]) -> dict[str, Any]:
    """The last line to print; the engine is at job["engine"] unless that is an error."""
    graph = Path(job["engine"]).with_name("graph.onnx")
    source, gpus = Path(job["onnx"]), job["gpus"]
    attentions, caches = write_graph(source, graph, job["slots"], job["precision"], gpus)
    trt = importlib.import_module(job["module"])
    messages: list[tuple[int, str]] = []

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            messages.append((int(severity), message))

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.progress = BuildProgress()
            self.said = -1

        def phase_start(self, phase: str, parent: str | None, total: int) -> None:
            self.progress.start(phase, parent, total)

        def step_complete(self, phase: str, step: int) -> bool:
            percent = self.progress.step(phase, step + 1)
            if percent > self.said:
                self.said = percent
                _say({"percent": percent})
            return True

        def phase_finish(self, phase: str) -> None:
            self.progress.finish(phase)

    log, monitor = Log(), Monitor()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        return {"error": "; ".join(_described(parser.get_error(i)) for i in range(parser.num_errors))}
    unused = [message for _, message in messages if UNUSED in message]
    if unused:
        return {"error": f"the parser drops an input, and results would be wrong: {unused[0]}"}
    updates = sum(network.get_layer(i).type == trt.LayerType.KV_CACHE_UPDATE for i in range(network.num_layers))
    if updates != caches:
        return {"error": f"{updates} of {caches} caches would be updated in place, expected all"}
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = monitor
    if job["workspace_bytes"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace_bytes"])
    if job["is_portable"]:
        config.num_compute_capabilities = len(gpus)
        for i, capability in enumerate(gpus):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), i)
    cache = Path(job["timing_cache"]) if job["timing_cache"] else None
    if cache is not None:
        use_timings(config, cache.read_bytes() if cache.exists() else b"")
    for shapes in job["profiles"]:
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in shapes.items():
            profile.set_shape(name, low, best, high)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        severe = [message for severity, message in messages if severity <= int(trt.ILogger.Severity.ERROR)]
        return {"error": "; ".join(severe) or "the builder gave no engine and no reason"}
    Path(job["engine"]).write_bytes(memoryview(plan))
    if cache is not None and (timings := config.get_timing_cache()) is not None:
        with atomic_write(cache) as temporary:
            temporary.write_bytes(memoryview(timings.serialize()))
    text = "\n".join(message for _, message in messages)
    layers = layers_from_log(text)
    return {
        "layers": layers,
        "attentions": attentions,
        "fused": sum(FUSED in name for name, *_ in layers),
        "caches": updates,
        "activation_bytes": [int(count) for count in ACTIVATIONS.findall(text)],
        "weight_bytes": max(map(int, WEIGHTS.findall(text)), default=0),
    }


def use_timings(config: Any, known: bytes) -> None:
    """Have the builder use these timings; of bytes that are none, or of another builder, it measures all anew."""
    for data in (known, b""):
        timings = config.create_timing_cache(data)
        if timings is not None and config.set_timing_cache(timings, False):
            return


def layers_from_log(text: str) -> list[list[str]]:
    """Name, type, type of the first input, type of the weights; those two are empty where there is none.

    What the builder says while it builds is all that can be had of an engine without a GPU.
    """
    found = []
    for line in text.splitlines():
        if match := LAYER.search(line):
            name, kind, inputs, constants = match.groups()
            weights = DTYPE.findall(constants)
            quantized = [dtype for dtype in weights if dtype in QUANTIZED]
            found.append([name, kind, (DTYPE.findall(inputs) or [""])[0], (quantized or weights or [""])[0]])
    return found


def write_graph(source: Path, target: Path, slots: int, precision: str, gpus: Sequence[str] = ()) -> tuple[int, int]:
    """Write the graph as TensorRT wants it, weights beside it; its number of attentions and of caches.

    Raises ExportError for what no engine is built with, or none for GPUs of these compute capabilities.
    """
    heads = heads_of(onnx.load(source, load_external_data=False))
    model = onnx.load(source)
    check_types(model, gpus)
    group_queries(model, heads)
    with_slots(model, slots)
    to_half(model, precision)
    allow_decomposition(model)
    caches = sum(node.op_type == "TensorScatter" for node in model.graph.node)
    onnx.save_model(
        model, target, save_as_external_data=True, location=f"{target.name}.data", size_threshold=INLINE_BYTES
    )
    return len(heads), caches


def _described(error: Any) -> str:
    return f"{error.node_name() or 'the graph'} ({error.node_operator()}): {error.desc()}"


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def _end_with_parent(parent: int) -> None:
    """Have the system end this process when the one that started it ends, however that comes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that wanted the engine is gone")


def main() -> None:
    """Read the job, build, print."""
    job = json.load(sys.stdin)
    _end_with_parent(job["parent"])
    try:
        _say(build(job))
    except ExportError as error:
        _say({"error": str(error)})


if __name__ == "__main__":
    main()
