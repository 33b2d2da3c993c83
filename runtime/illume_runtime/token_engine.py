"""What a token engine does, on whatever device; and the single steps of one whose loops the host runs.

Shapes: R rows, T new tokens, D width, B pictures or answers, n tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from illume_runtime.results import Cancel, OnProgress
from illume_runtime.sampling import ImageSampling, TextSampling
from illume_runtime.schedule import Codes, Schedule

Embeds = NDArray[np.float32]
OnLevel0 = Callable[[int, NDArray[np.int64]], None]
OnLogits = Callable[[NDArray[np.float32]], None]


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One picture: its size, the prompt's embeddings [T, D] with and without the user's text, its number for the seed.

    `constant` tells that the prompt without the user's text is the same for all pictures of this size.
    """

    schedule: Schedule
    conditional: Embeds
    unconditional: Embeds
    request: int
    constant: bool = False


class Words(Protocol):
    """The tokens of answers to a batch of prompts, one step after the other."""

    def tokens(self, k: int, *, may_open: bool, may_open_later: bool) -> NDArray[np.int64]:
        """Tokens [B] of step k, as ids of the segment; -1 where none is legal.

        Whether this step may choose the token that opens a picture, and whether one behind it may.
        """

    def close(self) -> None:
        """No step is asked for any more."""


class Engine(Protocol):
    """One batch at a time."""

    @property
    def max_rows(self) -> int | None:
        """Sequences at once; None where there is no limit but the memory."""

    def embed(self, ids: Sequence[int] | NDArray[np.int64]) -> Embeds:
        """Embeddings [T, D] of ids [T]."""

    def codes(
        self,
        requests: Sequence[TokenRequest],
        sampling: ImageSampling,
        *,
        code_color: NDArray[np.generic] | None = None,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
        on_level0: OnLevel0 | None = None,
    ) -> list[Codes]:
        """Codes of every request, drawn as one batch; `sampling` has no None left. Raises Cancelled, EngineError.

        `on_level0` gets the place of a request and its codes [Y, X] of the first level as soon as they are complete.
        """

    def words(
        self,
        rows: Sequence[Embeds],
        sampling: TextSampling,
        *,
        banned: Sequence[int],
        opening: int | None,
        first: int = 0,
        on_logits: OnLogits | None = None,
    ) -> Words:
        """The tokens of answers to prompts [T_r, D], whose draws depend on their numbers, from `first` on.

        `sampling` has no None left.
        `banned` ids of the segment are never chosen, and `opening` only at steps that may open a picture (None: it is
        not of the segment). `on_logits` gets the logits [B, n] of each step, which are valid until it returns.
        """

    def close(self) -> None:
        """Give the memory back."""


class StepEngine(Protocol):
    """An engine whose loops the host runs: rows of embeddings in, states and logits out."""

    def embed(self, ids: Sequence[int] | NDArray[np.int64]) -> Embeds:
        """Embeddings [T, D] of ids [T]."""

    def start(self, rows: Sequence[Embeds], capacity: int, *, constant: Sequence[bool] | None = None) -> Embeds:
        """Prefills sequences [T_r, D] for up to `capacity` positions each; the last hidden state [R, D] of each."""

    def step(self, tokens: NDArray[np.int64], segment: str, *, counts: NDArray[np.int64] | None = None) -> Embeds:
        """Appends tokens [R, T]; the hidden state [R, D] of each row's last one."""

    def logits(self, segment: str, hidden: Embeds, guidance: float) -> NDArray[np.float32]:
        """Logits [B, n] of a segment."""
