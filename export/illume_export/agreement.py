"""Greedy tokens of the runtime against those of plain PyTorch, over whole requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image

from illume_export.greedy import GreedyPipeline, GreedyTokens
from illume_export.pictures import drawn_pictures
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling
from illume_runtime.sampling import Quality
from illume_runtime.schedule import Codes

TIE = 1e-2  # logits: where the best two are nearer than their rounding, either choice is right
GUIDANCE = 2.0
MAX_TOKENS = 48
SIZES = ((256, 256), (300, 220), (150, 260))  # width, height of pictures for a model that takes any
QUESTIONS = (
    "describe the picture",
    "what color is the {shape}?",
    "how many {shape}s are there?",
    "is there a {color} {shape}?",
    "where is the {color} {shape}?",
)
PROMPTS = (
    "a {color} {shape}",
    "two {color} {shape}s on a {color2} background",
    "a {color} {shape} to the left of a {color2} {shape2}",
    "a {color} {shape} above a {color2} {shape2}",
    "three {color} {shape}s and a {color2} {shape2}",
)
INSTRUCTIONS = (
    "make the background {color}",
    "remove the {color} {shape}",
    "add a {color} {shape}",
    "make the {color} {shape} {color2}",
)
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "moon")


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token in which a request differs; None: that side had ended.

    `margin` is by how much PyTorch's choice was ahead of the next best, in logits; None where it chose no more.
    """

    position: int
    got: int | None
    expected: int | None
    margin: float | None

    @property
    def tie(self) -> bool:
        """It was between equal choices."""
        return self.margin is not None and self.margin < TIE


@dataclass(frozen=True, slots=True)
class Agreement:
    """One request: its kind and words, how many of PyTorch's tokens came up to the first difference, of how many."""

    kind: str
    text: str
    agreeing: int
    total: int
    difference: Difference | None

    @property
    def ok(self) -> bool:
        """All tokens agree, up to a choice that rounding decides."""
        return self.difference is None or self.difference.tie


def agreements(pipeline: Pipeline, reference: GreedyPipeline, size: int | None, count: int) -> Iterator[Agreement]:
    """`count` questions, drawings and edits each, one at a time; pictures are of one size, or of several for None."""
    answering = TextSampling(temperature=0.0, max_tokens=MAX_TOKENS, repetition_penalty=1.0)
    quality: Quality | None = "draft" if "vq_decoder" in pipeline.bundle.stages else None  # only tokens are compared
    drawing = ImageSampling(temperature=0.0, guidance=GUIDANCE, repetition_penalty=1.0, steps=1, quality=quality)
    requests = zip(
        pictures_of(size, count),
        texts_of(QUESTIONS, count),
        texts_of(PROMPTS, count),
        texts_of(INSTRUCTIONS, count),
        strict=False,
    )
    for pixels, question, prompt, instruction in requests:
        picture = Image.fromarray(pixels)
        answer = pipeline.describe(picture, question, sampling=answering).token_ids
        yield agreement("describe", question, answer, reference.describe(pixels, question, max_tokens=MAX_TOKENS))
        (drawn,) = pipeline.draw(prompt, sampling=drawing)
        yield agreement("draw", prompt, flat(drawn.codes), reference.draw(prompt, guidance=GUIDANCE))
        (edited,) = pipeline.edit(picture, instruction, sampling=drawing)
        expected = reference.draw(instruction, pixels, guidance=GUIDANCE)
        yield agreement("edit", instruction, flat(edited.codes), expected)


def pictures_of(size: int | None, count: int) -> Iterator[np.ndarray]:
    """Pictures [Y, X, 3] uint8, squares of the size; for None they have the SIZES in turn."""
    drawn = drawn_pictures(max(count, 1), size or max(max(one) for one in SIZES), seed=1)
    for number, pixels in enumerate(drawn):
        yield pixels if size else np.asarray(Image.fromarray(pixels).resize(SIZES[number % len(SIZES)]))


def flat(codes: Codes) -> np.ndarray:
    """All codes of a picture, level by level in raster order."""
    return np.concatenate([level.ravel() for level in codes])


def agreement(kind: str, text: str, got: Sequence[int] | np.ndarray, expected: GreedyTokens) -> Agreement:
    """The first differing token decides: what follows it follows from it."""
    ids = [int(token) for token in got]
    total = max(len(ids), len(expected.ids))
    at = next((i for i in range(total) if tuple(ids[i : i + 1]) != expected.ids[i : i + 1]), total)
    if at == total:
        return Agreement(kind, text, at, total, None)
    ours, theirs = (side[at] if at < len(side) else None for side in (ids, expected.ids))
    margin = expected.margins[at] if at < len(expected.margins) else None
    return Agreement(kind, text, at, total, Difference(at, ours, theirs, margin))


def texts_of(templates: Sequence[str], count: int) -> list[str]:
    """Different texts, as far as there are some: the templates in turn, filled with pairs of a colour and a shape."""
    pairs = list(product(COLORS, SHAPES))
    texts = []
    for i in range(count):
        (color, shape), (color2, shape2) = (pairs[(27 * i + offset) % len(pairs)] for offset in (0, 37))
        texts.append(templates[i % len(templates)].format(color=color, shape=shape, color2=color2, shape2=shape2))
    return texts
