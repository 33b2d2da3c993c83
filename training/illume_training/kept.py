"""Tensors that follow from trained weights, computed once and kept on disk until those weights change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
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
    tensors = {name: t.contiguous().cpu() for name, t in make().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, {_MADE_FROM: digest})
    temporary.replace(path)
    return tensors


def _digest(weights: Iterable[Tensor]) -> str:
    """SHA-256 of shapes and values."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(repr((tuple(weight.shape), weight.dtype)).encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
