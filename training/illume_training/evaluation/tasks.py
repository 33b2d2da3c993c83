"""The four tasks: each puts seeded cases to a pipeline, as one batch, and judges what comes out.

A case depends on (seed, task, split, number) alone, so that more cases go on from fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from illume_training.evaluation.checker import SeenPicture, see
from illume_training.evaluation.description import description_from_text
from illume_training.evaluation.judging import caption_checks, picture_words, scene_faults
from illume_training.world import (
    EDIT_KINDS,
    Scene,
    Split,
    caption_of,
    describe,
    render,
    sample_edit,
    sample_question,
    sample_scene,
)
from illume_training.world.palette import IMAGE_SIZE

if TYPE_CHECKING:
    from illume_runtime.pipeline import ImageSampling, Pipeline

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A judged case. `checks`: aspect -> right or wrong, with 'all' for the whole; the rest is for people."""

    checks: dict[str, bool]
    prompt: str
    expected: str
    got: str
    before: Pixels | None  # [256, 256, 3]: what the model was shown
    after: Pixels | None  # [256, 256, 3]: what it drew


def run_task(
    task: str, pipeline: Pipeline, split: Split, *, num_cases: int, batch: int, seed: int, sampling: ImageSampling
) -> Iterator[list[Outcome]]:
    """Outcomes, batch by batch. The batch that begins with case i is drawn with the sampling's seed + i."""
    for first in range(0, num_cases, batch):
        numbers = range(first, min(first + batch, num_cases))
        rngs = [Random(f"{seed}-{task}-{split}-{number}") for number in numbers]
        seeded = replace(sampling, seed=(sampling.seed + first) % 2**64)
        yield _RUNNERS[task](pipeline, split, numbers, rngs, seeded)


def _questions(
    pipeline: Pipeline, split: Split, numbers: range, rngs: list[Random], sampling: ImageSampling
) -> list[Outcome]:
    scenes = [sample_scene(rng, split) for rng in rngs]
    questions = [sample_question(scene, rng) for scene, rng in zip(scenes, rngs, strict=True)]
    shown = [render(scene) for scene in scenes]
    outcomes = []
    answers = pipeline.describe_many(shown, [question.text for question in questions])
    for question, pixels, answer in zip(questions, shown, answers, strict=True):
        got = answer.text.strip()
        right = got == question.answer
        checks = {"all": right, question.kind: right}
        if question.kind == "describe":
            checks["describe, in any order"] = description_from_text(got) == description_from_text(question.answer)
        outcomes.append(Outcome(checks, question.text, question.answer, got, pixels, None))
    return outcomes


def _draw(
    pipeline: Pipeline, split: Split, numbers: range, rngs: list[Random], sampling: ImageSampling
) -> list[Outcome]:
    captions = [caption_of(sample_scene(rng, split), rng) for rng in rngs]
    outcomes = []
    pictures = pipeline.draw_many([caption.text for caption in captions], sampling=sampling)
    for caption, picture in zip(captions, pictures, strict=True):
        after, seen = seen_in(picture.image)
        checks = caption_checks(seen, caption)
        wrong = [aspect for aspect, right in checks.items() if not right and aspect != "all"]
        got = f"seen: {picture_words(seen)}"
        if wrong:
            got = f"wrong: {', '.join(wrong)}; {got}"
        outcomes.append(Outcome(checks, caption.text, "", got, None, after))
    return outcomes


def _edit(
    pipeline: Pipeline, split: Split, numbers: range, rngs: list[Random], sampling: ImageSampling
) -> list[Outcome]:
    """The kinds of edits take turns, so that each has as many cases as the next."""
    kinds = [EDIT_KINDS[number % len(EDIT_KINDS)] for number in numbers]
    edits = [sample_edit(rng, split, kind) for rng, kind in zip(rngs, kinds, strict=True)]
    shown = [render(edit.source, edit.mask) for edit in edits]
    outcomes = []
    pictures = pipeline.edit_many(shown, [edit.text for edit in edits], sampling=sampling)
    for edit, pixels, picture in zip(edits, shown, pictures, strict=True):
        new = [o for o in edit.target.objects if o not in edit.source.objects] if edit.kind == "add" else [None]
        after, seen = seen_in(picture.image)
        faults = scene_faults(seen, edit.target, new[0])
        checks = {"all": not faults, edit.kind: not faults}
        outcomes.append(_redrawn(checks, edit.text, edit.target, faults, pixels, after))
    return outcomes


def _reconstruct(
    pipeline: Pipeline, split: Split, numbers: range, rngs: list[Random], sampling: ImageSampling
) -> list[Outcome]:
    scenes = [sample_scene(rng, split) for rng in rngs]
    shown = [render(scene) for scene in scenes]
    outcomes = []
    pictures = pipeline.reconstruct_many(shown, sampling=sampling)
    for scene, pixels, picture in zip(scenes, shown, pictures, strict=True):
        after, seen = seen_in(picture.image)
        faults = scene_faults(seen, scene)
        outcomes.append(_redrawn({"all": not faults}, "the same picture", scene, faults, pixels, after))
    return outcomes


def _redrawn(
    checks: dict[str, bool], prompt: str, scene: Scene, faults: list[str], before: Pixels, after: Pixels
) -> Outcome:
    return Outcome(checks, prompt, describe(scene), "; ".join(faults), before, after)


def seen_in(image: Image.Image) -> tuple[Pixels, SeenPicture]:
    """The picture's pixels, brought to the world's size, and what the checker sees in them."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    pixels = np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC))
    return pixels, see(pixels)


_Runner = Callable[["Pipeline", Split, range, list[Random], "ImageSampling"], list[Outcome]]
_RUNNERS: Final[dict[str, _Runner]] = {
    "questions": _questions,
    "draw": _draw,
    "edit": _edit,
    "reconstruct": _reconstruct,
}
TASKS: Final = tuple(_RUNNERS)
