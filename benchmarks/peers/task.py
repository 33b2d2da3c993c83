"""What every side is asked for, and what it gives back. Imports nothing but numpy: it is read in every environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Protocol

import numpy as np

Place = tuple[int, int]  # one of the ids [start, end) is chosen; a forced id is a range of one


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt of ids; the places of a text and of a picture that follow it, each on its own.

    `rows` are those of codes in each level of the picture.
    """

    prompt: tuple[int, ...]
    text: tuple[Place, ...]
    picture: tuple[Place, ...]
    rows: tuple[int, ...]

    @property
    def num_opening(self) -> int:
        """Forced ids at the beginning of the picture: they are part of its prompt."""
        return num_opening(self.picture)

    @property
    def max_tokens(self) -> int:
        """Places that the longer of the two takes."""
        return len(self.prompt) + max(len(self.text), len(self.picture))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The ids of all places behind the opening, the time to the first of them, and those of the steps to the rest.

    A step gives one id or more; `cpu_s` is the processor's time in it, of all threads of the process. `margins` are by
    how much each chosen id was ahead of the next one, where it is known.
    """

    ids: list[int]
    first_s: float
    steps_s: list[float]
    cpu_s: list[float]
    margins: list[float]

    @classmethod
    def of_spans(cls, ids: list[int], spans: Sequence[Span], margins: Sequence[float] = ()) -> Chosen:
        """From what the first choice and the steps took."""
        return cls(ids, spans[0].wall_s, [s.wall_s for s in spans[1:]], [s.cpu_s for s in spans[1:]], [*margins])


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds by the clock and of the processor, at first since some time in the past."""

    wall_s: float
    cpu_s: float

    @classmethod
    def now(cls) -> Span:
        """Both clocks."""
        return cls(perf_counter(), process_time())

    def __sub__(self, other: Span) -> Span:
        return Span(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s)


class TokenSide(Protocol):
    """A peer: it knows one sequence of ids and nothing of what they mean."""

    def reset(self) -> None:
        """Begin a new sequence."""

    def append(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [V] of the last id, until the next call."""


def num_opening(places: Sequence[Place]) -> int:
    """Forced ids before the first choice."""
    return next(i for i, (start, end) in enumerate(places) if end - start > 1)


def chosen_by(side: TokenSide, prompt: Sequence[int], places: Sequence[Place]) -> Chosen:
    """The likeliest ids of the places, one step a place; of the whole vocabulary's logits a slice is looked at."""
    opening = num_opening(places)
    side.reset()
    ids: list[int] = []
    margins: list[float] = []
    new = [*prompt, *(start for start, _ in places[:opening])]
    spans: list[Span] = []
    for start, end in places[opening:]:
        begin = Span.now()
        logits = side.append(new)[start:end]
        best = int(logits.argmax())
        spans.append(Span.now() - begin)
        new = [start + best]
        ids += new
        if end - start > 1:
            rest = logits.copy()
            rest[best] = -np.inf
            margins.append(float(logits[best] - rest.max()))
    return Chosen.of_spans(ids, spans, margins)


def task_from_file(path: Path) -> Task:
    """The task that `write_task` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    text, picture = (tuple((start, end) for start, end in data[key]) for key in ("text", "picture"))
    return Task(tuple(data["prompt"]), text, picture, tuple(data["rows"]))


def write_task(task: Task, path: Path) -> None:
    """The file that every side reads."""
    path.write_text(json.dumps(asdict(task)), encoding="utf-8")
