"""Checkpoint folders of the `illume_plus` family, read and checked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from illume_export.checkpoint import Checkpoint, Precision
from illume_export.families.illume_plus.config import PlusConfig
from illume_export.families.illume_plus.loader import Folders, folders_in, plus_from_folders, precision_of
from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.specification import (
    controls_from_config,
    generation_from_json,
    segments_from_config,
    specification_from_config,
)
from illume_export.families.illume_plus.stages import stages_from_model
from illume_export.families.illume_plus.tables import tables_from_model
from illume_export.json_object import json_object_from_file
from illume_export.tokenizer_file import tokenizer_from_file

FAMILY = "illume_plus"


def checkpoint_from_folder(folder: Path) -> Checkpoint:
    """The parts in subfolders of one folder. Raises InvalidCheckpointError."""
    return checkpoint_from_folders(folders_in(folder), name=folder.resolve().name)


def checkpoint_from_folders(folders: Folders, name: str | None = None) -> Checkpoint:
    """Model, stages, tables and specification. Raises InvalidCheckpointError."""
    model = plus_from_folders(folders)
    config = model.config
    path = folders.mllm / "generation_config.json"
    generation = generation_from_json(json_object_from_file(path) if path.is_file() else {})
    segment = segments_from_config(config)["text"]
    controls = set(controls_from_config(config).values())
    files = {
        "tokenizer.json": tokenizer_from_file(folders.mllm / "tokenizer.json", segment, controls),
        "generation_config.json": (json.dumps(generation, indent=2) + "\n").encode(),
    }
    return checkpoint_from_model(model, name or config.name, files, precision_of(folders))


def checkpoint_from_model(model: IllumePlus, name: str, files: Mapping[str, bytes], precision: Precision) -> Checkpoint:
    """The checkpoint of a model in evaluation mode, whose weights may be deferred."""
    return Checkpoint(
        family=FAMILY,
        name=name,
        model=model,
        config=_json_from_config(model.config),
        specification=specification_from_config(model.config),
        stages=stages_from_model(model),
        tables=tables_from_model(model),
        files=files,
        precision=precision,
    )


def _json_from_config(config: PlusConfig) -> dict[str, Any]:
    vocabulary = {
        **dataclasses.asdict(dataclasses.replace(config.vocabulary, tags={})),
        "tags": {f"{side}_{size}": identifier for (side, size), identifier in config.vocabulary.tags.items()},
    }
    without = dataclasses.replace(config, vocabulary=dataclasses.replace(config.vocabulary, tags={}))
    return {**dataclasses.asdict(without), "vocabulary": vocabulary}
