"""What the demonstration shows: pictures, answers and times, collected by running a bundle as a caller would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from illume_runtime.pipeline import Pipeline
from illume_training.world import EDIT_KINDS, describe, render, sample_edit, sample_question, sample_scene

SEED: Final = 2025
NUM_SCENES: Final = 4
QUESTIONS_PER_SCENE: Final = 3
PROMPTS: Final = (
    "a red circle to the left of a blue square",
    "three yellow stars on a navy background",
    "a large green triangle above a small pink heart",
    "two purple diamonds on a cream background",
    "a cyan moon, an orange cross and a pink circle",
    "an outline drawing of a blue star and a red heart",
)
NUM_RECONSTRUCTIONS: Final = 2


@dataclass(frozen=True, slots=True)
class Answered:
    """A question about a picture, what the model said, and the one right answer."""

    question: str
    answer: str
    expected: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture file and what was asked about it."""

    file: str
    answers: tuple[Answered, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A prompt and the pictures that came out, one per seed."""

    prompt: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """Before and after: an edit's instruction, or nothing for a reconstruction."""

    words: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that the page shows beside the latency report."""

    shown: tuple[Shown, ...]
    drawn: tuple[Drawn, ...]
    edited: tuple[Changed, ...]
    reconstructed: tuple[Changed, ...]


def collect(pipeline: Pipeline, folder: Path, on_step: Callable[[str, int, int], None]) -> Results:
    """Run every request and write the pictures into `folder`; `on_step(what, done, total)` follows each request.

    The scenes are of the test split: training never saw them.
    """
    return Results(
        _shown(pipeline, folder, on_step),
        _drawn(pipeline, folder, on_step),
        _edited(pipeline, folder, on_step),
        _reconstructed(pipeline, folder, on_step),
    )


def _shown(pipeline: Pipeline, folder: Path, on_step: Callable[[str, int, int], None]) -> tuple[Shown, ...]:
    rng = Random(SEED)
    shown = []
    for number in range(NUM_SCENES):
        scene = sample_scene(rng, "test", num_objects=number + 2, style="plain")
        file = _save(folder, f"scene-{number}.png", render(scene))
        image = Image.open(folder / file)
        answers = [Answered("describe the picture", pipeline.describe(image).text, describe(scene))]
        asked: set[str] = set()
        while len(asked) < QUESTIONS_PER_SCENE:
            question = sample_question(scene, rng)
            if question.kind in asked or question.kind == "describe":
                continue
            asked.add(question.kind)
            answers.append(Answered(question.text, pipeline.describe(image, question.text).text, question.answer))
        shown.append(Shown(file, tuple(answers)))
        on_step("describe", number + 1, NUM_SCENES)
    return tuple(shown)


def _drawn(pipeline: Pipeline, folder: Path, on_step: Callable[[str, int, int], None]) -> tuple[Drawn, ...]:
    drawn = []
    for number, prompt in enumerate(PROMPTS):
        files = []
        for version, picture in enumerate(pipeline.draw(prompt, n=2)):
            file = f"drawing-{number}-{version}.png"
            picture.image.save(folder / file)
            files.append(file)
        drawn.append(Drawn(prompt, tuple(files)))
        on_step("draw", number + 1, len(PROMPTS))
    return tuple(drawn)


def _edited(pipeline: Pipeline, folder: Path, on_step: Callable[[str, int, int], None]) -> tuple[Changed, ...]:
    rng = Random(SEED + 1)
    edited = []
    for number, kind in enumerate(EDIT_KINDS):
        edit = sample_edit(rng, "test", kind)
        before = _save(folder, f"edit-{kind}-before.png", render(edit.source, edit.mask))
        picture = pipeline.edit(Image.open(folder / before), edit.text)[0]
        after = f"edit-{kind}-after.png"
        picture.image.save(folder / after)
        edited.append(Changed(edit.text, before, after))
        on_step("edit", number + 1, len(EDIT_KINDS))
    return tuple(edited)


def _reconstructed(pipeline: Pipeline, folder: Path, on_step: Callable[[str, int, int], None]) -> tuple[Changed, ...]:
    made = []
    for number in range(NUM_RECONSTRUCTIONS):
        before = f"scene-{number}.png"
        after = f"reconstruction-{number}.png"
        pipeline.reconstruct(Image.open(folder / before)).image.save(folder / after)
        made.append(Changed("", before, after))
        on_step("reconstruct", number + 1, NUM_RECONSTRUCTIONS)
    return tuple(made)


def _save(folder: Path, file: str, pixels: NDArray[np.uint8]) -> str:
    Image.fromarray(pixels).save(folder / file)
    return file
