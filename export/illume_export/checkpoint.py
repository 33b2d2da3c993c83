"""A checkpoint, read: everything that a bundle is made of, whatever the family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from illume_export.stage import Stage


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a family gives to the export.

    `specification` holds the keys of `bundle.json` that a family decides: `model`, `vocabulary`, `grammar`,
    `prompts`, `preprocessing`, `scheduler`. `files` are copied into the bundle: name -> bytes.
    """

    family: str
    name: str
    model: nn.Module
    config: Mapping[str, Any]
    specification: Mapping[str, Any]
    stages: tuple[Stage, ...]
    tables: Mapping[str, np.ndarray]
    files: Mapping[str, bytes]
