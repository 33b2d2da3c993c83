"""An assessment of a picture against its prompt: one JSON object a line, and the words in which a model says it.

Per dimension a score from 0 to 1 (null: the prompt says nothing of it) and an analysis of one sentence; an overall
score, verdict and analysis. docs/self-enhancement.md has the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from illume_runtime.errors import UsageError
from illume_runtime.files import atomic_write
from illume_runtime.typed_json import json_from_text, json_from_value, value_from_json

FORMAT: Final = "illume-assessment"
SCHEMA_VERSION: Final = 1
DIMENSIONS: Final = ("object", "count", "color", "spatial")
QUESTION: Final = "is the picture right?"  # behind a drawn picture; answered in the words of `text_from_assessment`
CORRECTION: Final = "correct the picture"  # behind an assessment; answered by a picture
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
class Assessment:
    """What a judge says of the sample `id`, drawn from `prompt`."""

    format: Literal["illume-assessment"]
    schema_version: Literal[1]
    id: str
    prompt: str
    judge: str
    object: Dimension
    count: Dimension
    color: Dimension
    spatial: Dimension
    overall: Overall

    def dimension(self, name: str) -> Dimension:
        """One of DIMENSIONS."""
        found: Dimension = getattr(self, name)
        return found


def assessment(
    identifier: str, prompt: str, judge: str, dimensions: dict[str, tuple[float, str]], score: float, analysis: str
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


_WHOLE: Final = "picture"
_SAID: Final = re.compile(
    "".join(rf"(?:{name} (?P<{name}_why>[^.]+): (?P<{name}>yes|no)\. )?" for name in DIMENSIONS)
    + rf"{_WHOLE} (?P<{_WHOLE}>yes|no): (?P<{_WHOLE}_why>[^.]+)"
)


def text_from_assessment(one: Assessment) -> str:
    """`object star: yes. count one star: no. picture no: wrong count`: what is seen, whether it is as asked, in all.

    What is seen comes before each verdict and the dimensions before the whole, so that a model can read what it has
    said. Dimensions of which the prompt says nothing are left out.
    """
    parts = []
    for name in DIMENSIONS:
        dimension = one.dimension(name)
        if dimension.score is not None:
            parts.append(f"{name} {dimension.analysis}: {'yes' if dimension.score >= GOOD else 'no'}")
    verdict = "yes" if one.overall.verdict == "good" else "no"
    return ". ".join([*parts, f"{_WHOLE} {verdict}: {one.overall.analysis}"])


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer claims: the analyses, and where in the text the words yes and no of each verdict begin."""

    place: int  # of the verdict on the whole picture
    analysis: str
    dimensions: dict[str, tuple[int, str]]


def said_in_text(text: str) -> Said | None:
    """The reverse of `text_from_assessment`, but for the scores; None for another text."""
    found = _SAID.fullmatch(text)
    if found is None or text != text.strip():
        return None
    dimensions = {name: (found.start(name), found[f"{name}_why"]) for name in DIMENSIONS if found[name]}
    return Said(found.start(_WHOLE), found[f"{_WHOLE}_why"], dimensions)


def _check_score(score: float | None) -> None:
    if score is not None and not 0.0 <= score <= 1.0:
        raise ValueError(f"score: got {score}, expected a number from 0 to 1")


def _check_analysis(analysis: str) -> None:
    if not analysis.strip() or "." in analysis or "\n" in analysis:
        raise ValueError(f"analysis: got {analysis[:60]!r}, expected one sentence without a full stop")
