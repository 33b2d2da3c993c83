"""A checkpoint, read: everything that a bundle is made of, whatever the family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from illume_export.stage import Stage

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a family gives to the export.

    `specification` holds the keys of `bundle.json` that a family decides: `model`, `vocabulary`, `grammar`,
    `prompts`, `preprocessing`, `scheduler`. `files` are copied into the bundle: name -> bytes. Weights and tables may
    be deferred tensors; they are stored in `precision` where that loses nothing.
    """

    family: str
    name: str
    model: nn.Module
    config: Mapping[str, Any]
    specification: Mapping[str, Any]
    stages: tuple[Stage, ...]
    tables: Mapping[str, Tensor]
    files: Mapping[str, bytes]
    precision: Precision = "float32"
    compared: bool = True  # each graph with PyTorch before it is accepted; both sides take float32 weights in memory
