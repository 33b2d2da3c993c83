"""A bundle on disk from a checkpoint and a plan: complete and checked, or not there at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from illume_export.checkpoint import Checkpoint
from illume_export.onnx_from_stage import onnx_from_stage
from illume_export.onnx_weights import store_weights, stored_array
from illume_export.parity import parity_of
from illume_export.plan import Plan, PlannedStage
from illume_runtime.bundle import Bundle
from illume_runtime.files import atomic_directory, sha256_of
from illume_runtime.manifest import (
    FORMAT,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    StageSpec,
    json_from_manifest,
    manifest_from_json,
)
from illume_runtime.typed_json import json_from_value

MAX_INLINE_BYTES = 64 << 20  # more lies beside the graph, where it is mapped; what is in it is read and copied


@dataclass(frozen=True, slots=True)
class StageResult:
    """What became of one stage: `built` or `reused`."""

    spec: StageSpec
    action: str
    seconds: float
    file_bytes: int


def bundle_from_plan(
    checkpoint: Checkpoint,
    plan: Plan,
    *,
    on_stage: Callable[[str, int, int], None],
    on_result: Callable[[StageResult], None],
) -> tuple[StageResult, ...]:
    """Write the bundle at the plan's output, replacing the one that stands there, and give back what was done.

    `on_stage(name, done, total)` is called before each stage, `on_result` after it. Raises ExportError, QualityError;
    then, and on an interruption, what stood at the output stands there unchanged.
    """
    wanted = [planned for planned in plan.stages if planned.action != "leave out"]
    results = []
    with atomic_directory(plan.output, replace=plan.replaces) as folder:
        (folder / "stages").mkdir()
        for done, planned in enumerate(wanted):
            on_stage(planned.stage.name, done, len(wanted))
            result = (
                _built(planned, folder, checkpoint) if planned.action == "build" else _reused(planned, plan, folder)
            )
            on_result(result)
            results.append(result)
        tables = _write_tables(checkpoint, folder)
        for name, data in checkpoint.files.items():
            (folder / name).write_bytes(data)
        manifest = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "family": checkpoint.family,
            "name": checkpoint.name,
            "precision": checkpoint.precision,
            "tools": tools(),
            "files": _files(folder),
            "stages": {result.spec.name: json_from_value(result.spec) for result in results},
            "tables": tables,
            **checkpoint.specification,
        }
        text = json.dumps(json_from_manifest(manifest_from_json(manifest)), indent=1)
        (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
        Bundle.open(folder, verify=False)  # what is written can be opened
    return tuple(results)


def tools() -> dict[str, str]:
    """Versions of what makes a bundle."""
    return {
        "illume-rt": version("illume-rt"),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _built(planned: PlannedStage, folder: Path, checkpoint: Checkpoint) -> StageResult:
    start = monotonic()
    stage = planned.stage
    name = f"stages/{stage.name}.onnx"
    path = folder / name
    model, weights = onnx_from_stage(stage)
    beside = planned.weight_bytes > MAX_INLINE_BYTES
    num_bytes = store_weights(model, weights, path, checkpoint.precision, beside=beside)
    onnx.checker.check_model(path)
    spec = StageSpec(
        name=stage.name,
        file=name,
        opset=stage.opset,
        inputs=stage.inputs,
        outputs=stage.outputs,
        weight_bytes=num_bytes,
        params=planned.params,
        flops=stage.flops,
        source_sha256=planned.source_sha256,
        parity=parity_of(stage, path) if checkpoint.compared else None,
    )
    return StageResult(spec, "built", monotonic() - start, _file_bytes(folder, spec))


def _reused(planned: PlannedStage, plan: Plan, folder: Path) -> StageResult:
    start = monotonic()
    spec = plan.existing[planned.stage.name]
    for path in (plan.output / "stages").glob(f"{spec.name}.onnx*"):
        shutil.copyfile(path, folder / "stages" / path.name)  # a copy: a bundle has no links
    return StageResult(spec, "reused", monotonic() - start, _file_bytes(folder, spec))


def _file_bytes(folder: Path, spec: StageSpec) -> int:
    """The graph and what lies beside it."""
    return sum(path.stat().st_size for path in (folder / "stages").glob(f"{spec.name}.onnx*"))


def _write_tables(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    (folder / "tables").mkdir()
    entries = {}
    for name, tensor in checkpoint.tables.items():
        file = f"tables/{name}.npy"
        array = stored_array(tensor, checkpoint.precision)
        _write_array(folder / file, array)
        entries[name] = {"file": file, "dtype": str(array.dtype), "shape": list(array.shape)}
    return entries


def _write_array(path: Path, array: np.ndarray) -> None:
    """The file that `np.save` makes; where the disk is full, the error is the system's and says so."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _files(folder: Path) -> dict[str, Any]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths
    }
