"""Tensors that follow from trained weights, computed once and kept on disk until those weights change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

_MADE_FROM = "made_from"  # of the file's metadata: the digest of the weights


def kept_tensors(path: Path, weights: Iterable[Tensor], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in `path` where they were made from the same `weights`; else those of `make()`, written there."""
    digest = _digest(weights)
    if path.exists():
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get(_MADE_FROM) == digest:
                found: dict[str, Tensor] = load_file(path)
                return found
    return write_tensors(path, make(), {_MADE_FROM: digest})


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> dict[str, Tensor]:
    """Writes the tensors so that a kill leaves the file as it was or whole; returns them on the CPU."""
    written = {name: t.contiguous().cpu() for name, t in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(written, temporary, metadata)
    temporary.replace(path)
    return written


def _digest(weights: Iterable[Tensor]) -> str:
    """SHA-256 of shapes and values."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(repr((tuple(weight.shape), weight.dtype)).encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
