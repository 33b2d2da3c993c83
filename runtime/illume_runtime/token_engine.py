"""What a token engine does, on whatever device: rows of embeddings in, states and logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Embeds = NDArray[np.float32]


class Engine(Protocol):
    """One batch at a time. Shapes: R rows, T new tokens, D width, B pictures or answers, n tokens of a segment."""

    @property
    def is_on_gpu(self) -> bool:
        """Whether pictures are drawn by replaying programs on a GPU, and not step by step from here."""

    def embed(self, ids: Sequence[int] | NDArray[np.int64]) -> Embeds:
        """Embeddings [T, D] of ids [T]."""

    def start(self, rows: Sequence[Embeds], capacity: int, *, constant: Sequence[bool] | None = None) -> Embeds:
        """Prefills sequences [T_r, D] for up to `capacity` positions each; the last hidden state [R, D] of each."""

    def step(self, tokens: NDArray[np.int64], segment: str, *, counts: NDArray[np.int64] | None = None) -> Embeds:
        """Appends tokens [R, T]; the hidden state [R, D] of each row's last one."""

    def logits(self, segment: str, hidden: Embeds, guidance: float) -> NDArray[np.float32]:
        """Logits [B, n] of a segment."""

    def close(self) -> None:
        """Give the memory back."""
