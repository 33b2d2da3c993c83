"""What a safetensors file says it holds, read without reading a weight.

Format (https://github.com/huggingface/safetensors): 8 bytes little-endian length N, N bytes of JSON
{name: {"dtype", "shape", "data_offsets": [begin, end]}}, then the data.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illume_runtime.errors import InvalidCheckpointError

MAX_HEADER_BYTES = 100 * 1000 * 1000  # the limit of the safetensors library


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Name, type (`F16`, `BF16`, ...) and shape of one stored tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def header_of(path: Path) -> tuple[tuple[StoredTensor, ...], tuple[str, ...]]:
    """The stored tensors, and the names that occur more than once.

    Raises InvalidCheckpointError for a missing, truncated or malformed file.
    """
    if not path.is_file():
        raise InvalidCheckpointError(f"{path}: no such file; expected the weights of the checkpoint there")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise InvalidCheckpointError(
                f"{path}: truncated, or no safetensors file: {size} bytes, the header alone needs {8 + length}; "
                "copy it again"
            )
        text = file.read(length)
    try:
        pairs: list[tuple[str, Any]] = json.loads(text.decode("utf-8"), object_pairs_hook=list)
        entries = [(name, dict(value)) for name, value in pairs if name != "__metadata__"]
        tensors = tuple(
            StoredTensor(name, str(entry["dtype"]), tuple(int(n) for n in entry["shape"])) for name, entry in entries
        )
        end = max((int(entry["data_offsets"][1]) for _, entry in entries), default=0)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise InvalidCheckpointError(
            f"{path}: the safetensors header is malformed ({error!r}); copy it again"
        ) from error
    if size != 8 + length + end:
        raise InvalidCheckpointError(
            f"{path}: truncated or damaged: {size} bytes, expected {8 + length + end}; copy it again"
        )
    duplicated = tuple(name for name, count in Counter(name for name, _ in entries).items() if count > 1)
    return tensors, duplicated
