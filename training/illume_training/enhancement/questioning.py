"""The model as judge of prompts whose checklist it did not learn to write: the world writes it, the model answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from illume_runtime.enhance.assessment import Assessment
from illume_runtime.enhance.checklist import Check
from illume_runtime.enhance.judge import Drawn
from illume_training.enhancement.checking import caption_of_prompt
from illume_training.enhancement.claims import claims_of

Assess = Callable[[Sequence[Drawn], Sequence[tuple[Check, ...]]], list[Assessment]]


class Questioner:
    """Scores are as the model's own (`Pipeline.assess_drawn`)."""

    name = "questions"

    def __init__(self, assess: Assess) -> None:
        self._assess = assess

    def assess(self, pictures: Sequence[Drawn]) -> list[Assessment]:
        """Raises UsageError for a prompt that is no caption of this world."""
        checklists = [tuple(claim.check for claim in claims_of(caption_of_prompt(picture))) for picture in pictures]
        return [replace(one, judge=self.name) for one in self._assess(pictures, checklists)]
