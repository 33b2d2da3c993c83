"""Model families: one folder each, found by being there.

A family's package gives `holds(Path) -> bool`, whether a folder holds its checkpoint; `checkpoint_from_folder(Path) ->
Checkpoint`; `pipeline_from_checkpoint(Checkpoint)`, a `GreedyPipeline`. One whose checkpoint is several folders gives
`Folders` and `checkpoint_from_folders(Folders)` too, and one whose models are known by name `PUBLISHED`, name ->
function that makes a checkpoint of random weights in the model's size.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from illume_export.checkpoint import Checkpoint
from illume_export.json_object import json_object_from_file
from illume_runtime.errors import InvalidCheckpointError, UsageError


def families() -> dict[str, ModuleType]:
    """Every family's package by its folder's name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def family_from_folder(folder: Path) -> ModuleType:
    """The package of the family whose checkpoint the folder holds. Raises InvalidCheckpointError."""
    known = families()
    for family in known.values():
        if family.holds(folder):
            return family
    path = folder / "config.json"
    name = json_object_from_file(path).get("model_type")
    raise InvalidCheckpointError(f"{path}: model_type is {name!r}, expected one of {', '.join(known)}")


def family_of_parts() -> ModuleType:
    """The package of the family whose checkpoint is several folders."""
    return next(family for family in families().values() if hasattr(family, "checkpoint_from_folders"))


def family_of(name: str) -> ModuleType:
    """The package of a family by its name."""
    return families()[name]


def random_checkpoint(name: str) -> Checkpoint:
    """A checkpoint of random weights in the size of a published model. Raises UsageError."""
    known: dict[str, Callable[[], Checkpoint]] = {}
    for family in families().values():
        known |= getattr(family, "PUBLISHED", {})
    if name not in known:
        raise UsageError(f"there is no published model {name!r}; known are {', '.join(known)}")
    return known[name]()
