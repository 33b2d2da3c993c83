"""Greedy tokens of the runtime against those of plain PyTorch, over whole requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from illume_export.greedy import GreedyPipeline, GreedyTokens
from illume_export.pictures import drawn_pictures
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling

TIE = 1e-2  # logits: where the best two are nearer than their rounding, either choice is right
GUIDANCE = 2.0
MAX_TOKENS = 48
QUESTIONS = ("describe the picture", "how many shapes are there?", "what colour is the circle?", "is there a square?")
PROMPTS = ("a red circle", "two blue squares on a green background", "a star left of a triangle")
INSTRUCTIONS = ("make the background blue", "remove the circle", "add a yellow star", "recolour the square")


@dataclass(frozen=True, slots=True)
class Agreement:
    """One request: how many tokens agree, of how many. `tie`: the first difference was between equal choices."""

    request: str
    agreeing: int
    total: int
    tie: bool

    @property
    def ok(self) -> bool:
        """All tokens agree, up to a choice that rounding decides."""
        return self.agreeing == self.total or self.tie


def agreements(pipeline: Pipeline, reference: GreedyPipeline, size: int, count: int) -> Iterator[Agreement]:
    """`count` questions, drawings and edits each, one at a time."""
    text = TextSampling(temperature=0.0, max_tokens=MAX_TOKENS)
    image = ImageSampling(temperature=0.0, guidance=GUIDANCE, steps=1)
    pictures = drawn_pictures(max(count, 1), size, seed=1)
    for i in range(count):
        question, prompt, instruction = (texts[i % len(texts)] for texts in (QUESTIONS, PROMPTS, INSTRUCTIONS))
        picture = Image.fromarray(pictures[i])
        answer = pipeline.describe(picture, question, sampling=text).token_ids
        yield agreement(
            f"describe: {question}", answer, reference.describe(pictures[i], question, max_tokens=MAX_TOKENS)
        )
        (drawn,) = pipeline.draw(prompt, sampling=image)
        yield agreement(f"draw: {prompt}", drawn.codes[0].ravel(), reference.draw(prompt, guidance=GUIDANCE))
        (edited,) = pipeline.edit(picture, instruction, sampling=image)
        expected = reference.draw(instruction, pictures[i], guidance=GUIDANCE)
        yield agreement(f"edit: {instruction}", edited.codes[0].ravel(), expected)


def agreement(request: str, got: Sequence[int] | np.ndarray, expected: GreedyTokens) -> Agreement:
    """The first differing token decides: what follows it follows from it."""
    ids = [int(token) for token in got]
    total = max(len(ids), len(expected.ids))
    agreeing = next((i for i in range(total) if tuple(ids[i : i + 1]) != expected.ids[i : i + 1]), total)
    tie = agreeing < min(total, len(expected.margins)) and expected.margins[agreeing] < TIE
    return Agreement(request, agreeing, total, tie)
