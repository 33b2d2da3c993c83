"""What an export will do, stage by stage, before it does it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import torch

from illume_export.checkpoint import Checkpoint
from illume_export.deferred import update_digest
from illume_export.onnx_weights import nominal_bytes
from illume_export.stage import Stage
from illume_runtime.bundle import Bundle
from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.manifest import MANIFEST_NAME, StageSpec

Action = Literal["build", "reuse", "leave out"]
PACKAGE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage, what happens to it, and its size: in the checkpoint's precision, folded matrices take more."""

    stage: Stage
    action: Action
    source_sha256: str
    params: int
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All stages; `existing` holds those of the bundle that stands at the output."""

    output: Path
    replaces: bool
    stages: tuple[PlannedStage, ...]
    existing: Mapping[str, StageSpec]


def plan_from_checkpoint(
    checkpoint: Checkpoint, output: Path, *, only: Collection[str] = (), force: bool = False
) -> Plan:
    """The plan. `only`: stages to build whatever stands there, all if empty; `force`: nothing is reused.

    A stage is reused if the bundle at the output has it from the same weights, configuration and code. With `only`,
    the others are kept, or left out where there is no bundle yet. Raises UsageError.
    """
    names = [stage.name for stage in checkpoint.stages]
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise UsageError(f"--stages: there is no stage {', '.join(unknown)}; the stages are {', '.join(names)}")
    if output.exists() and not (output / MANIFEST_NAME).is_file():
        raise UsageError(f"{output} exists and is no bundle; it is left alone, choose another --output")
    existing = _existing_stages(output)
    planned = []
    for stage in checkpoint.stages:
        source = source_sha256(checkpoint, stage)
        same = stage.name in existing and existing[stage.name].source_sha256 == source
        action: Action = "build" if force or not same else "reuse"
        if only:
            action = "build" if stage.name in only else "reuse" if same else "leave out"
        if action == "leave out" and stage.name in existing:
            raise UsageError(
                f"--stages: {stage.name} in {output} comes from other weights or other code; export all stages"
            )
        params = sum(p.numel() for p in stage.module.parameters())
        tensors = [*stage.module.parameters(), *stage.module.buffers()]
        num_bytes = sum(nominal_bytes(tensor, checkpoint.precision) for tensor in tensors)
        planned.append(PlannedStage(stage, action, source, params, num_bytes))
    return Plan(output, output.exists(), tuple(planned), existing)


def _existing_stages(output: Path) -> Mapping[str, StageSpec]:
    """The stages of the bundle at the output; empty if there is none, or a damaged or quantized one."""
    if not output.exists():
        return {}
    try:
        bundle = Bundle.open(output, verify=True)
    except InvalidBundleError:
        return {}
    return bundle.stages if bundle.manifest.quantization is None else {}


def source_sha256(checkpoint: Checkpoint, stage: Stage) -> str:
    """Hash of what a stage is made of: its tensors, the configuration, the code of this package, the exporter."""
    digest = hashlib.sha256()
    facts = [stage.name, stage.opset, checkpoint.precision, str(stage.inputs), str(stage.outputs), stage.tolerance]
    tools = [torch.__version__, onnx.__version__]
    digest.update(json.dumps([facts, tools, checkpoint.config], sort_keys=True).encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    tensors = [*stage.module.named_parameters(), *stage.module.named_buffers()]
    for name, tensor in tensors:
        update_digest(digest, name, tensor)
    return digest.hexdigest()
