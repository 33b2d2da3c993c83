"""The judges' interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from illume_runtime.enhance.assessment import Assessment


@dataclass(frozen=True, slots=True)
class Drawn:
    """A drawn picture to be judged: its ids with the forced ones, and its file where there is one."""

    id: str
    prompt: str
    tokens: tuple[int, ...]
    picture: Path | None = None


class Judge(Protocol):
    """Judges pictures against their prompts."""

    name: str

    def assess(self, pictures: Sequence[Drawn]) -> list[Assessment]:
        """One assessment each, in order. Raises UsageError for a prompt that this judge cannot read."""
