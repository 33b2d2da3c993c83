"""Builds one engine in a process of its own, as a graph can end the parser's process.

Reads a job (JSON) from standard input; prints JSON lines: {"phase", "done", "total"} while it builds, and at the end
{"layers": [[name, type, data type of the first input], ...]} or {"error": text}.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import onnx

from illume_export.engines.lowering import allow_decomposition, to_float16, with_slots
from illume_runtime.files import atomic_write

LAYER = re.compile(r"Name: ([^,]+), LayerType: (\w+), Inputs: \[(?:.*?Datatype: (\w+))?")
UNUSED = "Unused Input"


def build(job: dict[str, Any]) -> dict[str, Any]:
    """The last line to print; the engine is at job["engine"] unless that is an error."""
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
            self.totals: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, total: int) -> None:
            self.totals[phase] = total

        def step_complete(self, phase: str, step: int) -> bool:
            _say({"phase": phase, "done": step + 1, "total": self.totals.get(phase, step + 1)})
            return True

        def phase_finish(self, phase: str) -> None:
            self.totals.pop(phase, None)

    log, monitor = Log(), Monitor()
    model = onnx.load(job["onnx"])
    with_slots(model, job["slots"])
    if job["precision"] == "float16":
        to_float16(model)
    allow_decomposition(model)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        return {"error": "; ".join(_described(parser.get_error(i)) for i in range(parser.num_errors))}
    unused = [message for _, message in messages if UNUSED in message]
    if unused:
        return {"error": f"the parser drops an input, and results would be wrong: {unused[0]}"}
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = monitor
    if job["workspace_bytes"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace_bytes"])
    if job["capabilities"]:
        config.num_compute_capabilities = len(job["capabilities"])
        for i, capability in enumerate(job["capabilities"]):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), i)
    cache = Path(job["timing_cache"]) if job["timing_cache"] else None
    if cache is not None:
        timings = config.create_timing_cache(cache.read_bytes() if cache.exists() else b"")
        config.set_timing_cache(timings, False)
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
    if cache is not None:
        with atomic_write(cache) as temporary:
            temporary.write_bytes(memoryview(config.get_timing_cache().serialize()))
    found = [LAYER.search(line) for _, message in messages for line in message.splitlines()]
    return {"layers": [match.groups() for match in found if match]}


def _described(error: Any) -> str:
    return f"{error.node_name() or 'the graph'} ({error.node_operator()}): {error.desc()}"


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    _say(build(json.load(sys.stdin)))
