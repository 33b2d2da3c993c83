"""Batches for the language model: what each stage of the recipe shows it.

A lesson is one dialogue: drawing from a caption, questions about a picture, an edit, a reconstruction. Pictures are
rendered and encoded as they are needed, so that no scene is seen twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from illume_training.corpus_lessons import DialogueCorpus, assess_lesson, checklist_lesson, correct_lesson
from illume_training.dialogue import LAYOUT, Packed, Sequence, Writer, pack
from illume_training.looks import cell_of, looks_of_drawing, looks_of_edit
from illume_training.world import (
    Caption,
    Edit,
    Question,
    Scene,
    render,
    sample_drawing,
    sample_question,
    sample_scene,
    sample_settled_edit,
)

RECONSTRUCT: Final = "draw the same picture"
# How often a kind of question is taught beside the others: those that look something up need more examples.
QUESTIONS: Final = {
    "what": 1.0,
    "color": 3.0,
    "count": 4.0,
    "where": 5.0,
    "exists": 5.0,
    "compare": 3.0,
    "size": 1.0,
    "background": 0.5,
    "describe": 0.7,
}
# How often a kind of edit is taught: those that have to find something in the picture or in the words need more.
EDITS: Final = {"remove": 3.0, "recolor": 2.0, "background": 1.0, "add": 4.0, "complete": 1.0, "style": 1.0}
Encode = Callable[[NDArray[np.uint8]], tuple[Tensor, NDArray[np.int64]]]  # pictures -> features, codes [B, 8, 8]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Number of lessons of each kind in one batch, and the share of them whose text is dropped for guidance."""

    draw: int
    ask: int
    edit: int
    reconstruct: int
    drop_text: float = 0.1
    checklist: int = 0  # of the corpus: what prompts want, in words
    assess: int = 0  # of the corpus: questions about drawn pictures
    correct: int = 0  # of the corpus: those about bad ones, and the corrected picture

    @property
    def of_corpus(self) -> int:
        """Lessons that a corpus is needed for."""
        return self.checklist + self.assess + self.correct


@dataclass(frozen=True, slots=True)
class Lessons:
    """A batch: one packed array per kind of lesson, as their lengths differ, and the features of all pictures."""

    groups: tuple[Packed, ...]
    features: Tensor  # [pictures, 64, C]


def make_lessons(
    seed: str, mixture: Mixture, writer: Writer, encode: Encode, corpus: DialogueCorpus | None = None
) -> Lessons:
    """The batch of a seed; `corpus` is where the lessons `assess` and `correct` come from."""
    rng = Random(seed)
    pictures: list[NDArray[np.uint8]] = []
    later: list[tuple[str, Callable[[NDArray[np.int64]], Sequence]]] = []  # kind, and what writes it once codes exist

    def shown(scene: Scene, mask: tuple[int, int, int] | None = None) -> int:
        pictures.append(render(scene, mask))
        return len(pictures) - 1

    def words(text: str) -> str:
        return "" if rng.random() < mixture.drop_text else text

    for _ in range(mixture.draw):
        scene, caption = sample_drawing(rng, "train")
        text, index = words(caption.text), shown(scene)
        follow_up = _questions(scene, rng, 2) if rng.random() < 0.3 else []
        told = caption if text else None
        later.append(("draw", partial(_draw, writer, text, told, scene, index, follow_up)))
    for _ in range(mixture.ask):
        scene = sample_scene(rng, "train")
        later.append(("ask", partial(_ask, writer, _questions(scene, rng, 16), shown(scene))))
    for _ in range(mixture.edit):
        edit = sample_settled_edit(rng, "train", rng.choices(tuple(EDITS), tuple(EDITS.values()))[0])
        text, source, target = words(edit.text), shown(edit.source, edit.mask), shown(edit.target)
        later.append(("edit", partial(_edit, writer, edit, text, source, target)))
    for _ in range(mixture.reconstruct):
        text, index = words(RECONSTRUCT), shown(sample_scene(rng, "train"))
        later.append(("reconstruct", partial(_redraw, writer, text, index, index)))

    if corpus is not None:
        later += [
            ("checklist", partial(checklist_lesson, writer, rng.choice(corpus.checklist)))
            for _ in range(mixture.checklist)
        ]
        later += [("assess", partial(assess_lesson, writer, rng.choice(corpus.assess))) for _ in range(mixture.assess)]
        for dialogue in [rng.choice(corpus.correct) for _ in range(mixture.correct)]:
            corrected = None
            if dialogue.corrected_picture:
                pictures.append(corpus.picture(dialogue))
                corrected = len(pictures) - 1
            later.append(("correct", partial(correct_lesson, writer, dialogue, corrected)))

    features, codes = encode(np.stack(pictures))
    groups: dict[str, list[Sequence]] = {}
    for kind, finish in later:
        groups.setdefault(kind, []).append(finish(codes))
    pad = writer.config.controls.pad
    return Lessons(tuple(pack(group, pad) for group in groups.values()), features)


def _questions(scene: Scene, rng: Random, most: int) -> list[Question]:
    questions = [sample_question(scene, rng, QUESTIONS) for _ in range(rng.randint((most + 1) // 2, most))]
    return list({q.text: q for q in questions}.values())


def _answer(writer: Writer, sequence: Sequence, question: Question) -> None:
    shown_by, against = (tuple(map(cell_of, objects)) for objects in (question.shown_by, question.against))
    writer.answer(sequence, question.answer, shown_by, against)


def _draw(
    writer: Writer,
    text: str,
    told: Caption | None,
    scene: Scene,
    picture: int,
    follow_up: list[Question],
    codes: NDArray[np.int64],
) -> Sequence:
    sequence = writer.begin()
    writer.user(sequence, text)
    words_end = len(sequence.ids)
    writer.picture(sequence, codes[picture], LAYOUT)
    if told is not None:
        sequence.looks += looks_of_drawing(writer, sequence, words_end, scene, told)
    for question in follow_up:
        writer.user(sequence, question.text)
        _answer(writer, sequence, question)
    return sequence


def _ask(writer: Writer, questions: list[Question], picture: int, _: NDArray[np.int64]) -> Sequence:
    sequence = writer.begin()
    for turn, question in enumerate(questions):
        writer.user(sequence, question.text, (picture,) if turn == 0 else ())
        _answer(writer, sequence, question)
    return sequence


def _redraw(writer: Writer, text: str, source: int, target: int, codes: NDArray[np.int64]) -> Sequence:
    sequence = writer.begin()
    writer.user(sequence, text, (source,))
    writer.picture(sequence, codes[target])
    return sequence


def _edit(writer: Writer, edit: Edit, text: str, source: int, target: int, codes: NDArray[np.int64]) -> Sequence:
    sequence = writer.begin()
    writer.user(sequence, text, (source,))
    first_cell = sequence.first_cell
    writer.picture(sequence, codes[target])
    if text:
        sequence.looks += looks_of_edit(writer, sequence, first_cell, edit)
    return sequence


def frozen_encoder(
    vision_encoder: torch.nn.Module, nearest: Callable[[Tensor], Tensor], device: torch.device
) -> Encode:
    """An `Encode` from the frozen vision encoder and the tokenizer's `encode`."""

    @torch.no_grad()
    def encode(pictures: NDArray[np.uint8]) -> tuple[Tensor, NDArray[np.int64]]:
        pixels = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        features = vision_encoder(pixels).float()
        return features, nearest(features).cpu().numpy()

    return encode
