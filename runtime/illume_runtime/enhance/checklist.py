"""What a prompt wants to see: questions, each with the answer that it wants.

As words, which is what a model learns to write for a prompt: by dimension, `object: how many objects are there? two.
color: is there a red star? yes, is there a blue moon? yes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Final

DIMENSIONS: Final = ("object", "count", "color", "spatial")
_REQUEST: Final = "check: "
_PARTS, _QUESTIONS, _ANSWER = ". ", ", ", "? "  # between dimensions, between questions, between question and answer


@dataclass(frozen=True, slots=True)
class Check:
    """A question about a picture. Raises ValueError for one that cannot be written into a checklist."""

    dimension: str  # one of DIMENSIONS
    question: str  # ends in the only question mark
    wanted: str  # the answer that the prompt wants

    def __post_init__(self) -> None:
        if self.dimension not in DIMENSIONS:
            raise ValueError(f"dimension: got {self.dimension[:40]!r}, expected one of {', '.join(DIMENSIONS)}")
        for name, text in (("question", self.question.removesuffix("?")), ("answer", self.wanted)):
            if not text or text != text.strip() or any(mark in text for mark in ".,:?\n"):
                raise ValueError(f"{name}: got {text[:60]!r}, expected plain words without . , : ?")
        if not self.question.endswith("?"):
            raise ValueError(f"question: got {self.question[:60]!r}, expected a question mark at its end")


def checklist_request(prompt: str) -> str:
    """What a model is told, to write the checklist of a prompt."""
    return _REQUEST + prompt


def text_from_checklist(checks: Iterable[Check]) -> str:
    """The checklist in words; checks of one dimension are to stand together."""
    parts = []
    for dimension, some in groupby(checks, key=lambda check: check.dimension):
        parts.append(f"{dimension}: " + _QUESTIONS.join(f"{check.question} {check.wanted}" for check in some))
    return _PARTS.join(parts)


def checklist_from_text(text: str) -> tuple[Check, ...]:
    """The reverse of `text_from_checklist`. Raises ValueError that says what is no checklist."""
    checks = []
    for part in text.split(_PARTS):
        dimension, colon, rest = part.partition(": ")
        if not colon:
            raise ValueError(f"got {part[:60]!r}, expected a dimension, a colon and questions")
        for one in rest.split(_QUESTIONS):
            question, mark, wanted = one.partition(_ANSWER)
            if not mark:
                raise ValueError(f"got {one[:60]!r}, expected a question with its answer")
            checks.append(Check(dimension, f"{question}?", wanted))
    return tuple(checks)
