"""Lessons from dialogues of `illume enhance build`: a prompt's checklist, a picture assessed, a bad one corrected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_runtime.enhance.checklist import checklist_request
from illume_runtime.errors import UsageError
from illume_runtime.images import image_from_file
from illume_training.dialogue import LAYOUT, NO_LOSS, Sequence, Writer
from illume_training.enhancement.dialogues import Dialogue, dialogues_from_folder

CORRECTION: Final = "correct the picture"  # behind the questions about a picture; answered by another picture


@dataclass(frozen=True, slots=True)
class DialogueCorpus:
    """Dialogues of both kinds, and the folder of their pictures."""

    folder: Path
    assess: tuple[Dialogue, ...]
    correct: tuple[Dialogue, ...]

    @property
    def checklist(self) -> tuple[Dialogue, ...]:
        """Those that tell what a prompt wants: all."""
        return self.assess + self.correct

    def picture(self, dialogue: Dialogue) -> NDArray[np.uint8]:
        """What the correction leads to, [Y, X, 3] uint8. Raises UsageError."""
        return np.asarray(image_from_file(self.folder / dialogue.corrected_picture))


def dialogue_corpus(folder: Path, writer: Writer) -> DialogueCorpus:
    """The dialogues of a folder. Raises UsageError for one whose ids or cells are no picture's of this model."""
    found = dialogues_from_folder(folder)
    num_cells = writer.config.grid_size**2
    for dialogue in found:
        for tokens in filter(None, (dialogue.tokens, dialogue.corrected_tokens)):
            codes_of(writer, tokens, dialogue.id)
        for cell in (cell for turn in dialogue.turns for cell in (*turn.shown_by, *turn.against)):
            if not 0 <= cell < num_cells:
                raise UsageError(
                    f"dialogue {dialogue.id}: an answer is seen in cell {cell}, expected one below {num_cells}; "
                    "the corpus was drawn by another model"
                )
    kinds = (tuple(one for one in found if one.kind == kind) for kind in ("assess", "correct"))
    return DialogueCorpus(folder, *kinds)


def checklist_lesson(writer: Writer, dialogue: Dialogue, _: NDArray[np.int64]) -> Sequence:
    """The checklist of a prompt, in words alone."""
    sequence = writer.begin()
    writer.user(sequence, checklist_request(dialogue.prompt))
    writer.answer(sequence, dialogue.checklist)
    return sequence


def assess_lesson(writer: Writer, dialogue: Dialogue, _: NDArray[np.int64]) -> Sequence:
    """Questions about a drawn picture, which is not learnt. Its prompt is left out: it would tell what to answer."""
    sequence = writer.begin()
    writer.user(sequence, "")
    _judged(writer, sequence, dialogue)
    return sequence


def correct_lesson(writer: Writer, dialogue: Dialogue, target: int | None, codes: NDArray[np.int64]) -> Sequence:
    """The bad picture of a prompt, questions about it, and the picture that it should have been, which is learnt.

    `target` is the place of the corrected picture among `codes` [B, Y, X], None where its codes are the dialogue's own.
    """
    sequence = writer.begin()
    writer.user(sequence, dialogue.prompt)
    _judged(writer, sequence, dialogue)
    writer.user(sequence, CORRECTION)
    ids = dialogue.corrected_tokens
    corrected = codes_of(writer, ids, dialogue.id) if target is None else codes[target]
    writer.picture(sequence, corrected, LAYOUT)
    return sequence


def _judged(writer: Writer, sequence: Sequence, dialogue: Dialogue) -> None:
    writer.picture(sequence, codes_of(writer, dialogue.tokens, dialogue.id), NO_LOSS)
    for turn in dialogue.turns:
        writer.user(sequence, turn.question)
        writer.answer(sequence, turn.answer, turn.shown_by, turn.against)


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
