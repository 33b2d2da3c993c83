"""Dialogues for training from an assessed corpus: `dialogues.jsonl`, and the pictures that corrections lead to.

A good picture is assessed. A bad one is assessed, then corrected: by the codes of a good picture of the same prompt
where the corpus has one, else by a picture of the world that shows what the prompt says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Literal

from PIL import Image

from illume_runtime.enhance.assessment import Assessment, text_from_assessment
from illume_runtime.enhance.corpus import Sample
from illume_runtime.errors import UsageError
from illume_runtime.files import atomic_directory
from illume_runtime.typed_json import json_from_text, json_from_value, value_from_json
from illume_training.enhancement.imagining import scene_from_caption
from illume_training.enhancement.reading import caption_from_text
from illume_training.world import render

FILE: Final = "dialogues.jsonl"
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A picture as ids with the answer to whether it is right; of a bad one also what it should be, as ids or file."""

    schema_version: Literal[1]
    kind: Literal["assess", "correct"]
    id: str
    prompt: str
    tokens: tuple[int, ...]
    answer: str
    corrected_tokens: tuple[int, ...] = ()
    corrected_picture: str = ""

    def __post_init__(self) -> None:
        if (self.kind == "correct") != bool(self.corrected_tokens or self.corrected_picture):
            raise ValueError(f"kind: got {self.kind!r}; exactly a dialogue of the kind correct has a correction")


@dataclass(frozen=True, slots=True)
class Built:
    """How many dialogues of each kind there are, and how many bad pictures had no correction."""

    assess: int
    correct: int
    left_out: int


def write_dialogues(
    folder: Path, samples: Iterable[Sample], assessments: Iterable[Assessment], *, seed: int, replace: bool = False
) -> Built:
    """The folder, whole or not at all. Raises UsageError for assessments that are not of these samples."""
    by_id = {sample.id: sample for sample in samples}
    pairs: list[tuple[Sample, Assessment]] = []
    for one in assessments:
        sample = by_id.get(one.id)
        if sample is None or sample.prompt != one.prompt:
            raise UsageError(f"assessment {one.id} ({one.prompt[:60]!r}) is of no sample of this corpus; assess it")
        pairs.append((sample, one))
    if not pairs:
        raise UsageError("there are no assessments; run `illume enhance assess` first")
    good: dict[str, list[Sample]] = {}
    for sample, one in pairs:
        if one.overall.verdict == "good":
            good.setdefault(sample.prompt, []).append(sample)
    counts = {"assess": 0, "correct": 0, "left_out": 0}
    with atomic_directory(folder, replace=replace) as temporary, (temporary / FILE).open("w", encoding="utf-8") as file:
        for sample, one in pairs:
            dialogue = _dialogue(sample, one, good.get(sample.prompt, []), temporary, Random(f"{seed}-{sample.id}"))
            counts["left_out" if dialogue is None else dialogue.kind] += 1
            if dialogue is not None:
                file.write(json.dumps(json_from_value(dialogue)) + "\n")
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


def _dialogue(sample: Sample, one: Assessment, good: Sequence[Sample], folder: Path, rng: Random) -> Dialogue | None:
    answer = text_from_assessment(one)
    if one.overall.verdict == "good":
        return Dialogue(1, "assess", sample.id, sample.prompt, sample.tokens, answer)
    if good:
        tokens = rng.choice(good).tokens
        return Dialogue(1, "correct", sample.id, sample.prompt, sample.tokens, answer, corrected_tokens=tokens)
    caption = caption_from_text(sample.prompt)
    scene = None if caption is None else scene_from_caption(caption, rng)
    if scene is None:
        return None
    Image.fromarray(render(scene)).save(folder / sample.picture)
    return Dialogue(1, "correct", sample.id, sample.prompt, sample.tokens, answer, corrected_picture=sample.picture)
