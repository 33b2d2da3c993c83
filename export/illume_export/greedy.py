"""What a family's slow pipeline offers: greedy tokens, to compare the runtime's with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class GreedyTokens:
    """Chosen ids, and by how much the logit of each was ahead of the next best allowed one."""

    ids: tuple[int, ...]
    margins: tuple[float, ...]


class GreedyPipeline(Protocol):
    """What a family's slow pipeline offers; pictures are [Y, X, 3] uint8 of the model's own size."""

    def describe(self, picture: np.ndarray, question: str, *, max_tokens: int) -> GreedyTokens:
        """The answer's text ids."""

    def draw(self, prompt: str, picture: np.ndarray | None = None, *, guidance: float) -> GreedyTokens:
        """The codes of a picture, level by level in raster order."""
