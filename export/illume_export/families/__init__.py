"""Model families: one folder each.

A family is added with its folder and one line below. Its package gives `checkpoint_from_folder(Path) -> Checkpoint`
and `pipeline_from_checkpoint(Checkpoint) -> EagerPipeline`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from illume_export.json_object import json_object_from_file
from illume_runtime.errors import InvalidCheckpointError

FAMILIES: dict[str, str] = {
    "illume": "illume_export.families.illume",
}


def family_from_folder(folder: Path) -> ModuleType:
    """The package of the family that config.json names in `model_type`. Raises InvalidCheckpointError."""
    path = folder / "config.json"
    name = json_object_from_file(path).get("model_type")
    if name not in FAMILIES:
        raise InvalidCheckpointError(f"{path}: model_type is {name!r}, expected one of {', '.join(FAMILIES)}")
    return importlib.import_module(FAMILIES[name])
