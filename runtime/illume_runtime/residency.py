"""Which stages are in memory at once: all that were used, or those of one phase of a request."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Final, Literal, get_args

Residency = Literal["all", "staged"]
RESIDENCIES: Final[tuple[Residency, ...]] = get_args(Residency)
LANGUAGE: Final = "language"  # the phase of the decoder, its heads and its cache
TOGETHER: Final = {"decoder": LANGUAGE, "conditioner": "diffusion", "denoiser": "diffusion"}


def phase_of(stage: str) -> str:
    """The phase that a stage works in; one that works alone is a phase."""
    return LANGUAGE if stage.startswith("head_") else TOGETHER.get(stage, stage)


def phases_of(stages: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """The stages of a request in the order of their use, those of one phase together."""
    return tuple(tuple(group) for _, group in groupby(stages, phase_of))
