"""Dialogues for training from an assessed corpus: `dialogues.jsonl`, and the pictures that corrections lead to.

A good picture is assessed: each question of its prompt's checklist is answered. A bad one is assessed, then corrected:
by the codes of a good picture of the same prompt where the corpus has one, else by a picture of the world that shows
what the prompt says. Beside them a picture can be assessed against prompts that it was not drawn for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Final, Literal

from PIL import Image

from illume_runtime.enhance.assessment import Assessment
from illume_runtime.enhance.checklist import text_from_checklist
from illume_runtime.enhance.corpus import Sample
from illume_runtime.errors import UsageError
from illume_runtime.files import atomic_directory
from illume_runtime.images import image_from_file
from illume_runtime.typed_json import json_from_text, json_from_value, value_from_json
from illume_training.enhancement.altering import altered_caption
from illume_training.enhancement.checking import assessment_of
from illume_training.enhancement.imagining import scene_from_caption
from illume_training.enhancement.reading import caption_from_text
from illume_training.evaluation.tasks import seen_in
from illume_training.world import render

FILE: Final = "dialogues.jsonl"
SCHEMA_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Turn:
    """A question about the picture, its answer, and the cells that show it and that they are compared with."""

    question: str
    answer: str
    shown_by: tuple[int, ...] = ()
    against: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A picture as ids with what is asked of it; of a bad one also what it should be, as ids or file.

    `checklist`: what the prompt wants, in the words of `text_from_checklist`.
    """

    schema_version: Literal[2]
    kind: Literal["assess", "correct"]
    id: str
    prompt: str
    checklist: str
    tokens: tuple[int, ...]
    turns: tuple[Turn, ...]
    corrected_tokens: tuple[int, ...] = ()
    corrected_picture: str = ""

    def __post_init__(self) -> None:
        if (self.kind == "correct") != bool(self.corrected_tokens or self.corrected_picture):
            raise ValueError(f"kind: got {self.kind!r}; exactly a dialogue of the kind correct has a correction")


@dataclass(frozen=True, slots=True)
class Built:
    """How many dialogues of each kind there are, of how many the prompt is altered, how many had no correction."""

    assess: int
    correct: int
    altered: int
    left_out: int


def write_dialogues(
    folder: Path,
    samples: Iterable[tuple[Sample, Path]],
    assessments: Iterable[Assessment],
    *,
    seed: int,
    num_altered: int = 0,
) -> Built:
    """The folder, whole or not at all. Raises UsageError for assessments that are not of these samples.

    `samples` come with their pictures; each is assessed against `num_altered` altered prompts too, by the checker.
    """
    by_id = {sample.id: (sample, picture) for sample, picture in samples}
    pairs: list[tuple[Sample, Assessment]] = []
    for one in assessments:
        sample, _ = by_id.get(one.id, (None, None))
        if sample is None or sample.prompt != one.prompt:
            raise UsageError(f"assessment {one.id} ({one.prompt[:60]!r}) is of no sample of this corpus; assess it")
        if not one.checks:
            raise UsageError(f"assessment {one.id} answers no question of the prompt; expected a judge that does")
        pairs.append((sample, one))
    if not pairs:
        raise UsageError("there are no assessments; run `illume enhance assess` first")
    good: dict[str, list[Sample]] = {}
    for sample, one in pairs:
        if one.overall.verdict == "good":
            good.setdefault(sample.prompt, []).append(sample)
    counts = {"assess": 0, "correct": 0, "altered": 0, "left_out": 0}
    with atomic_directory(folder) as temporary, (temporary / FILE).open("w", encoding="utf-8") as file:
        for sample, one in pairs:
            dialogue = _dialogue(sample, one, good.get(sample.prompt, []), temporary, Random(f"{seed}-{sample.id}"))
            counts["left_out" if dialogue is None else dialogue.kind] += 1
            rng = Random(f"{seed}-{sample.id}-altered")
            altered = list(_altered(sample, by_id[sample.id][1], num_altered, rng))
            counts["altered"] += len(altered)
            for each in ([] if dialogue is None else [dialogue]) + altered:
                file.write(json.dumps(json_from_value(each)) + "\n")
    return Built(**counts)


def dialogues_from_folder(folder: Path) -> list[Dialogue]:
    """All dialogues. Raises UsageError that names the line and the key."""
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{folder}: has no {FILE}; expected a folder that `illume enhance build` made")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            data = json_from_text(line)
            if isinstance(data, dict) and data.get("schema_version") != SCHEMA_VERSION:
                raise ValueError(f"schema_version {data.get('schema_version')!r} is unknown, expected {SCHEMA_VERSION}")
            found.append(value_from_json(Dialogue, data, ""))
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: {error}; build it again") from error
    return found


def _altered(sample: Sample, picture: Path, count: int, rng: Random) -> Iterator[Dialogue]:
    """Dialogues that assess the picture against altered prompts, each once."""
    captions = [
        caption for caption in (altered_caption(sample.prompt, rng) for _ in range(count)) if caption is not None
    ]
    if not captions:
        return
    _, seen = seen_in(image_from_file(picture))
    for number, caption in enumerate(dict.fromkeys(captions)):
        identifier = f"{sample.id}~{number}"
        yield _assessing(sample, assessment_of(seen, caption, identifier))


def _assessing(sample: Sample, one: Assessment) -> Dialogue:
    turns = [Turn(c.question, c.answer, c.shown_by, c.against) for c in one.checks if c.answer is not None]
    checklist = text_from_checklist(c.check for c in one.checks)
    return Dialogue(SCHEMA_VERSION, "assess", one.id, one.prompt, checklist, sample.tokens, tuple(turns))


def _dialogue(sample: Sample, one: Assessment, good: Sequence[Sample], folder: Path, rng: Random) -> Dialogue | None:
    assessing = _assessing(sample, one)
    if one.overall.verdict == "good":
        return assessing
    if good:
        return replace(assessing, kind="correct", corrected_tokens=rng.choice(good).tokens)
    caption = caption_from_text(sample.prompt)
    scene = None if caption is None else scene_from_caption(caption, rng)
    if scene is None:
        return None
    Image.fromarray(render(scene)).save(folder / sample.picture)
    return replace(assessing, kind="correct", corrected_picture=sample.picture)
