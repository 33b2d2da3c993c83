"""A checkpoint folder of the `illume` family, read and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from illume_export.checkpoint import Checkpoint
from illume_export.families.illume.loader import illume_from_checkpoint
from illume_export.families.illume.specification import specification_from_config
from illume_export.families.illume.stages import stages_from_model
from illume_export.families.illume.tables import tables_from_model
from illume_export.json_object import json_object_from_file
from illume_export.models import IllumeConfig
from illume_runtime.bundle import GenerationConfig
from illume_runtime.errors import InvalidCheckpointError
from illume_runtime.typed_json import value_from_json

MAX_TOKENIZER_BYTES = 64 * 1024 * 1024


def checkpoint_from_folder(folder: Path) -> Checkpoint:
    """Model, stages, tables and specification. Raises InvalidCheckpointError."""
    model = illume_from_checkpoint(folder)
    generation = _generation(folder / "generation_config.json")
    return Checkpoint(
        family=model.config.model_type,
        name=model.config.name,
        model=model,
        config=model.config.to_json(),
        specification=specification_from_config(model.config),
        stages=stages_from_model(model),
        tables=tables_from_model(model),
        files={
            "tokenizer.json": _tokenizer(folder / "tokenizer.json", model.config),
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


def _tokenizer(path: Path, config: IllumeConfig) -> bytes:
    """The file's bytes, after checking that what it encodes without added tokens is text and no control token."""
    if not path.is_file():
        raise InvalidCheckpointError(f"{path}: no such file; expected a tokenizer of the Hugging Face format")
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise InvalidCheckpointError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_TOKENIZER_BYTES}")
    data = path.read_bytes()
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise InvalidCheckpointError(f"{path}: no tokenizer ({error}); expected the Hugging Face format") from error
    start, end = config.text_segment
    controls = set(config.to_json()["controls"].values())
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    outside = sorted(token for token, i in vocabulary.items() if not start <= i < end or i in controls)
    if outside:
        raise InvalidCheckpointError(
            f"{path}: {len(outside)} tokens are not in the text segment [{start}, {end}) or are control tokens, "
            f"such as {outside[0]!r}; control tokens belong into added_tokens"
        )
    return data
