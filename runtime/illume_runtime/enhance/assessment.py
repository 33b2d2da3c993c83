"""An assessment of a picture against its prompt: one JSON object a line.

Per dimension a score from 0 to 1 (null: the prompt says nothing of it) and an analysis of one sentence; an overall
score, verdict and analysis; and the questions that were asked, with their answers. docs/self-enhancement.md has the
schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from illume_runtime.enhance.checklist import DIMENSIONS, Check
from illume_runtime.errors import UsageError
from illume_runtime.files import atomic_write
from illume_runtime.typed_json import json_from_text, json_from_value, value_from_json

FORMAT: Final = "illume-assessment"
SCHEMA_VERSION: Final = 2
GOOD: Final = 0.5  # the score from which a verdict is good
UNSAID: Final = "the judge says nothing of it"

Verdict = Literal["good", "bad"]


@dataclass(frozen=True, slots=True)
class Dimension:
    """One dimension. Raises ValueError for a score outside 0..1 and for an analysis that is no sentence."""

    score: float | None
    analysis: str

    def __post_init__(self) -> None:
        _check_score(self.score)
        _check_analysis(self.analysis)


@dataclass(frozen=True, slots=True)
class Overall:
    """The whole picture. Raises ValueError as `Dimension`, and for a verdict that is not that of the score."""

    score: float
    verdict: Verdict
    analysis: str

    def __post_init__(self) -> None:
        _check_score(self.score)
        _check_analysis(self.analysis)
        if self.verdict != verdict_of(self.score):
            raise ValueError(f"overall.verdict: got {self.verdict!r} with the score {self.score}, which is another one")


@dataclass(frozen=True, slots=True)
class AnsweredCheck:
    """A question of the checklist with what the judge answers, null where it has no plain answer.

    `score` is how sure the answer is the wanted one. `shown_by`, `against`: the cells of the picture's grid, numbered
    row by row, that show the answer and those they are compared with, where the judge knows. Raises ValueError as
    `Check` and for a score outside 0..1.
    """

    dimension: str
    question: str
    wanted: str
    answer: str | None
    score: float | None
    shown_by: tuple[int, ...] = ()
    against: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _ = self.check
        _check_score(self.score)
        if (self.answer is None) != (self.score is None):
            raise ValueError("answer and score: got one of them, expected both or null for both")

    @property
    def check(self) -> Check:
        """What was asked."""
        return Check(self.dimension, self.question, self.wanted)


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a judge says of the sample `id`, drawn from `prompt`."""

    format: Literal["illume-assessment"]
    schema_version: Literal[2]
    id: str
    prompt: str
    judge: str
    object: Dimension
    count: Dimension
    color: Dimension
    spatial: Dimension
    overall: Overall
    checks: tuple[AnsweredCheck, ...]

    def dimension(self, name: str) -> Dimension:
        """One of DIMENSIONS."""
        found: Dimension = getattr(self, name)
        return found


def assessment(
    identifier: str,
    prompt: str,
    judge: str,
    dimensions: Mapping[str, tuple[float, str]],
    score: float,
    analysis: str,
    checks: Iterable[AnsweredCheck] = (),
) -> Assessment:
    """The assessment; dimensions that are left out have no score."""
    given = {name: Dimension(*dimensions.get(name, (None, UNSAID))) for name in DIMENSIONS}
    overall = Overall(score, verdict_of(score), analysis)
    return Assessment(
        format="illume-assessment",
        schema_version=SCHEMA_VERSION,
        id=identifier,
        prompt=prompt,
        judge=judge,
        overall=overall,
        checks=tuple(checks),
        **given,
    )


def verdict_of(score: float) -> Verdict:
    """The verdict of an overall score."""
    return "good" if score >= GOOD else "bad"


def write_assessments(path: Path, assessments: Iterable[Assessment]) -> int:
    """The file, whole or not at all, each line read back before it is written; how many lines."""
    count = 0
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for one in assessments:
            text = json.dumps(json_from_value(one))
            assessment_from_json(text)
            file.write(text + "\n")
            count += 1
    return count


def assessments_from_file(path: Path) -> Iterator[Assessment]:
    """The assessments of a file. Raises UsageError that names the line and the key."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected what `illume enhance assess` writes")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield assessment_from_json(line)
            except ValueError as error:
                raise UsageError(f"{path}, line {number}: {error}") from error


def assessment_from_json(text: str) -> Assessment:
    """The assessment in a line. Raises ValueError that begins with the path of the wrong key."""
    data = json_from_text(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"format is not {FORMAT!r}; this is no assessment")
    if data.get("schema_version") != SCHEMA_VERSION:
        version = data.get("schema_version")
        raise ValueError(f"schema_version {version!r} is unknown, expected {SCHEMA_VERSION}; update illume")
    return value_from_json(Assessment, data, "")


def _check_score(score: float | None) -> None:
    if score is not None and not 0.0 <= score <= 1.0:
        raise ValueError(f"score: got {score}, expected a number from 0 to 1")


def _check_analysis(analysis: str) -> None:
    if not analysis.strip() or "." in analysis or "\n" in analysis:
        raise ValueError(f"analysis: got {analysis[:60]!r}, expected one sentence without a full stop")
