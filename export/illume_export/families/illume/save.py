"""A checkpoint folder from a model: config.json, tokenizer.json, generation_config.json, float16 weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer

from illume_export.models import Illume
from illume_runtime.files import atomic_write


def checkpoint_from_model(
    model: Illume, folder: str | Path, tokenizer: Tokenizer, generation_config: Mapping[str, Any]
) -> Path:
    """The folder, created if it is missing; other files in it (README.md) stay.

    Each file is replaced atomically, the weights last. Raises ValueError for a weight that float16 cannot hold.
    """
    folder = Path(folder)
    weights = {name: _half(name, tensor) for name, tensor in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "config.json": _json(model.config.to_json()),
        "generation_config.json": _json(generation_config),
        "tokenizer.json": tokenizer.to_str(pretty=True) + "\n",
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with atomic_write(folder / "model.safetensors") as temporary:
        temporary.write_bytes(save(weights, metadata={"format": "pt"}))
    return folder


def _half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    half = tensor.detach().to("cpu", torch.float16).contiguous()
    if not torch.isfinite(half).all():
        raise ValueError(
            f"{name}: holds values that float16 cannot (largest magnitude {tensor.abs().max().item():.6g}, "
            "expected finite and below 65504); do not save a diverged model"
        )
    return half


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"
