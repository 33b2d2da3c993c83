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
    "illume_plus": "illume_export.families.illume_plus",
}
PARTED = "illume_plus"  # whose checkpoint is several folders
PARTS = ("mllm", "dualvitok")


def family_from_folder(folder: Path) -> ModuleType:
    """The package of the family of a checkpoint folder. Raises InvalidCheckpointError.

    It is named by `model_type` of config.json, or known by the folder's parts where the family's checkpoint has parts.
    """
    if all((folder / part).is_dir() for part in PARTS):
        return family_of_parts()
    path = folder / "config.json"
    name = json_object_from_file(path).get("model_type")
    if name not in FAMILIES:
        raise InvalidCheckpointError(f"{path}: model_type is {name!r}, expected one of {', '.join(FAMILIES)}")
    return family_of(name)


def family_of(name: str) -> ModuleType:
    """The package of a family."""
    return importlib.import_module(FAMILIES[name])


def family_of_parts() -> ModuleType:
    """The package of the family whose checkpoint is several folders: `checkpoint_from_folders(Folders)`."""
    return family_of(PARTED)
