"""A checkpoint folder of the `illume` family, read and checked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from illume_export.checkpoint import Checkpoint
from illume_export.families.illume.loader import illume_from_checkpoint
from illume_export.families.illume.specification import specification_from_config
from illume_export.families.illume.stages import stages_from_model
from illume_export.families.illume.tables import tables_from_model
from illume_export.json_object import json_object_from_file
from illume_export.tokenizer_file import tokenizer_from_file
from illume_runtime.bundle import GenerationConfig
from illume_runtime.errors import InvalidCheckpointError
from illume_runtime.typed_json import value_from_json


def holds(folder: Path) -> bool:
    """Whether config.json says that a folder is a checkpoint of this family."""
    path = folder / "config.json"
    return path.is_file() and json_object_from_file(path).get("model_type") == "illume"


def checkpoint_from_folder(folder: Path) -> Checkpoint:
    """Model, stages, tables and specification. Raises InvalidCheckpointError."""
    model = illume_from_checkpoint(folder)
    generation = _generation(folder / "generation_config.json")
    controls = set(dataclasses.asdict(model.config.controls).values())
    return Checkpoint(
        family=model.config.model_type,
        name=model.config.name,
        model=model,
        config=model.config.to_json(),
        specification=specification_from_config(model.config),
        stages=stages_from_model(model),
        tables=tables_from_model(model),
        files={
            "tokenizer.json": tokenizer_from_file(folder / "tokenizer.json", model.config.text_segment, controls),
            "generation_config.json": (json.dumps(generation, indent=2) + "\n").encode(),
        },
    )


def _generation(path: Path) -> dict[str, Any]:
    """Sampling defaults: task -> name -> number."""
    data = json_object_from_file(path)
    try:
        value_from_json(GenerationConfig, data, path.name)  # type: ignore[type-abstract]
    except ValueError as error:
        raise InvalidCheckpointError(f"{path}: {error}") from error
    return data
