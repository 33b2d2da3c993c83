"""Token sequences of the tasks: what the language model reads, and which of it it must learn to write.

A sequence is a list of ids with two kinds of places that are filled later: continuous embeddings of an input picture
(`picture`, `cell`) and codes of an output picture. `losses` says of each token whether and how it is learnt.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from illume_export.models import IllumeConfig

NO_LOSS, TEXT, IMAGE, LAYOUT = 0, 1, 2, 3  # LAYOUT: an image whose objects may lie anywhere, as a caption leaves it


# What a token is taught to look at: the cells that show the answer that begins there, those they are compared with, the
# name of the object in a cell, the name of the object to be drawn next, the words that say where it goes, and what is
# drawn already of the things that they relate.
SHOWN, AGAINST, NAMED, NEXT, WHERE, RELATED = range(6)


@dataclass(frozen=True, slots=True)
class Look:
    """The token at `place` is to look at `places` before it, alike at all of them."""

    kind: int
    place: int
    places: tuple[int, ...]


@dataclass(slots=True)
class Sequence:
    """One training sequence under construction; `cells[i]` is picture * 64 + cell where i is continuous, else -1."""

    ids: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    losses: list[int] = field(default_factory=list)  # how the token at i is learnt, as the successor of i - 1
    looks: list[Look] = field(default_factory=list)
    first_cell: int = 0  # place of the first cell of the latest picture

    def add(self, ids: list[int], loss: int = NO_LOSS) -> None:
        """Appends ids that are (TEXT, IMAGE, LAYOUT) or are not (NO_LOSS) to be learnt."""
        self.ids += ids
        self.cells += [-1] * len(ids)
        self.losses += [loss] * len(ids)


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the parts of dialogues in the family's format (see docs/bundle.md, Grammar and Prompts)."""

    config: IllumeConfig
    tokenizer: Tokenizer

    def text(self, words: str) -> list[int]:
        """Ids of plain text."""
        ids: list[int] = self.tokenizer.encode(words, add_special_tokens=False).ids
        return ids

    def token(self, word: str) -> int:
        """The first id of a word."""
        return self.text(word)[0]

    def begin(self) -> Sequence:
        """An empty dialogue."""
        sequence = Sequence()
        sequence.add([self.config.controls.begin])
        return sequence

    def user(self, sequence: Sequence, words: str, pictures: tuple[int, ...] = ()) -> None:
        """A user's turn: words, then continuous pictures by their index."""
        c = self.config.controls
        sequence.add([c.user, *self.text(words)])
        for picture in pictures:
            self._input_picture(sequence, picture)
        sequence.add([c.assistant])

    def place(self, sequence: Sequence, cell: int) -> int:
        """Where a cell 0..63 of the latest picture lies; each row ends in one token more."""
        return sequence.first_cell + cell + cell // self.config.grid_size

    def answer(
        self, sequence: Sequence, words: str, shown_by: tuple[int, ...] = (), against: tuple[int, ...] = ()
    ) -> None:
        """An answer in words, to be learnt.

        `shown_by`: cells 0..63 of the latest picture that it is read from; `against`: those it compares them with.
        """
        for kind, cells in ((SHOWN, shown_by), (AGAINST, against)):
            if cells:
                places = tuple(self.place(sequence, cell) for cell in cells)
                sequence.looks.append(Look(kind, len(sequence.ids) - 1, places))
        sequence.add([*self.text(words), self.config.controls.end], TEXT)

    def picture(self, sequence: Sequence, codes: NDArray[np.int64], loss: int = IMAGE) -> None:
        """An answer in codes [8, 8]; the model learns to open it, and the codes, unless `loss` is NO_LOSS."""
        c = self.config.controls
        sequence.add([c.start_of_image], NO_LOSS if loss == NO_LOSS else TEXT)
        sequence.first_cell = len(sequence.ids)
        for row in codes + self.config.level0_segment[0]:
            sequence.add(row.tolist(), loss)
            sequence.add([c.end_of_line])
        sequence.add([c.end_of_image])
        sequence.add([c.end])

    def _input_picture(self, sequence: Sequence, picture: int) -> None:
        c, size = self.config.controls, self.config.grid_size
        sequence.add([c.start_of_image])
        sequence.first_cell = len(sequence.ids)
        for row in range(size):
            first = picture * self.config.num_patches + row * size
            sequence.ids += [c.pad] * size
            sequence.cells += range(first, first + size)
            sequence.losses += [NO_LOSS] * size
            sequence.add([c.end_of_line])
        sequence.add([c.end_of_image])


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences padded on the right to one length: ids, cells, losses, each [B, T]; and what is looked at."""

    ids: NDArray[np.int64]
    cells: NDArray[np.int64]
    losses: NDArray[np.int64]
    looks: tuple[tuple[int, Look], ...] = ()  # by row


def pack(sequences: list[Sequence], pad: int) -> Packed:
    """One array of each kind."""
    length = max(len(s.ids) for s in sequences)

    def padded(rows: list[list[int]], fill: int) -> NDArray[np.int64]:
        return np.array([row + [fill] * (length - len(row)) for row in rows], np.int64)

    return Packed(
        padded([s.ids for s in sequences], pad),
        padded([s.cells for s in sequences], -1),
        padded([s.losses for s in sequences], NO_LOSS),
        tuple((row, look) for row, s in enumerate(sequences) for look in s.looks),
    )
