"""Lessons from dialogues of `illume enhance build`: a picture is assessed, and where it is bad, corrected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from illume_runtime.enhance.assessment import CORRECTION, QUESTION
from illume_runtime.errors import UsageError
from illume_runtime.images import image_from_file
from illume_training.dialogue import NO_LOSS, Sequence, Writer
from illume_training.enhancement.dialogues import Dialogue, dialogues_from_folder


@dataclass(frozen=True, slots=True)
class DialogueCorpus:
    """Dialogues of both kinds, and the folder of their pictures."""

    folder: Path
    assess: tuple[Dialogue, ...]
    correct: tuple[Dialogue, ...]

    def picture(self, dialogue: Dialogue) -> NDArray[np.uint8]:
        """What the correction leads to, [Y, X, 3] uint8. Raises UsageError."""
        return np.asarray(image_from_file(self.folder / dialogue.corrected_picture))


def dialogue_corpus(folder: Path, writer: Writer) -> DialogueCorpus:
    """The dialogues of a folder. Raises UsageError for one whose ids are no picture of this model."""
    found = dialogues_from_folder(folder)
    for dialogue in found:
        for tokens in filter(None, (dialogue.tokens, dialogue.corrected_tokens)):
            codes_of(writer, tokens, dialogue.id)
    kinds = (tuple(one for one in found if one.kind == kind) for kind in ("assess", "correct"))
    return DialogueCorpus(folder, *kinds)


def assess_lesson(writer: Writer, dialogue: Dialogue, target: int | None, codes: NDArray[np.int64]) -> Sequence:
    """The dialogue as a sequence. The picture that is judged is not learnt, the answer and the correction are.

    `target` is the place of the corrected picture among `codes` [B, Y, X], None where its codes are the dialogue's own.
    """
    sequence = writer.begin()
    writer.user(sequence, dialogue.prompt)
    writer.picture(sequence, codes_of(writer, dialogue.tokens, dialogue.id), NO_LOSS)
    writer.user(sequence, QUESTION)
    writer.answer(sequence, dialogue.answer)
    if dialogue.kind == "correct":
        writer.user(sequence, CORRECTION)
        ids = dialogue.corrected_tokens
        writer.picture(sequence, codes_of(writer, ids, dialogue.id) if target is None else codes[target])
    return sequence


def codes_of(writer: Writer, tokens: tuple[int, ...], identifier: str) -> NDArray[np.int64]:
    """Codes [Y, X] of a picture's ids. Raises UsageError."""
    (start, end), size = writer.config.level0_segment, writer.config.grid_size
    codes = np.array([token - start for token in tokens if start <= token < end], np.int64)
    if len(codes) != size * size:
        raise UsageError(
            f"dialogue {identifier}: its ids hold {len(codes)} codes, expected {size * size}; "
            "the corpus was drawn by another model"
        )
    return codes.reshape(size, size)
