"""What both sides are asked for."""

from __future__ import annotations

from typing import Protocol

from illume_runtime.profile.measure import INSTRUCTION, PROMPT
from illume_runtime.profile.picture import measuring_picture

BATCH = 4

__all__ = ["BATCH", "INSTRUCTION", "PROMPT", "Side", "measuring_picture"]


class Side(Protocol):
    """One implementation of the model: the runtime, or eager PyTorch. Each call is one whole request or stage."""

    def tokens(self) -> object:
        """The visual tokens of one picture of PROMPT, from its text."""

    def diffusion(self) -> object:
        """The picture of the tokens that the last `tokens` gave."""

    def draw(self) -> object:
        """One picture of PROMPT."""

    def draw_batch(self) -> object:
        """BATCH pictures of PROMPT as one batch."""

    def describe(self) -> object:
        """The answer to "describe the picture" about `measuring_picture`."""

    def edit(self) -> object:
        """`measuring_picture` changed as INSTRUCTION says."""
