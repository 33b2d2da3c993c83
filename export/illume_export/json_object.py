"""A JSON object from a file of a checkpoint, or an error that says what is there instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from illume_runtime.errors import InvalidCheckpointError

MAX_BYTES = 1024 * 1024


def json_object_from_file(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The object. Raises InvalidCheckpointError for a missing, oversized or malformed file."""
    if not path.is_file():
        raise InvalidCheckpointError(f"{path}: no such file; expected a checkpoint folder with a {path.name}")
    num_bytes = path.stat().st_size
    if num_bytes > max_bytes:
        raise InvalidCheckpointError(f"{path}: {num_bytes} bytes, expected at most {max_bytes}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidCheckpointError(f"{path}: no JSON ({error}); expected an object") from error
    if not isinstance(data, dict):
        raise InvalidCheckpointError(f"{path}: got {type(data).__name__}, expected an object")
    return data
