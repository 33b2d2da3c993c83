"""The image grammar, compiled: every token of a picture is either forced or the choice of one known step.

    schedule.steps[k].tokens     forced tokens, appended (behind what step k - 1 chose) before step k chooses
    schedule.steps[k].segment    the vocabulary segment that step k chooses from
    schedule.trailing            forced tokens behind the last choice

A picture as codes is one int64 array [Y, X] per level, counted from 0 within the level; as tokens it is the whole
sequence of ids, forced ones included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby

import numpy as np
from numpy.typing import ArrayLike, NDArray

from illume_runtime.errors import InvalidBundleError
from illume_runtime.limits import MAX_PICTURE_TOKENS
from illume_runtime.manifest import Grammar, Segment, Vocabulary
from illume_runtime.programs import Embed, Force, Program, Resolution, Sample, input_program

Codes = tuple[NDArray[np.int64], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """Append `tokens`, then choose one token of `segment`: the code of a level at (row, column)."""

    tokens: tuple[int, ...]
    segment: str
    level: int
    row: int
    column: int


@dataclass(frozen=True, slots=True)
class TokenRun:
    """These ids."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EmbedRun:
    """The next `count` continuous embeddings of the input picture."""

    count: int


InputBlock = tuple[TokenRun | EmbedRun, ...]


@dataclass(frozen=True)
class Schedule:
    """How a picture of one size is written (`steps`, `trailing`), read (`input_block`) and named (`tag`)."""

    name: str
    width: int
    height: int
    grids: tuple[tuple[int, int], ...]
    segments: tuple[Segment, ...]
    steps: tuple[Step, ...]
    trailing: tuple[int, ...]
    input_block: InputBlock
    tag: tuple[int, ...] = ()

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of a written picture, forced ones included."""
        return len(self._template)

    @cached_property
    def num_input_tokens(self) -> int:
        """Places that an input picture takes in the context."""
        return num_places(self.input_block)

    @cached_property
    def structure(self) -> frozenset[int]:
        """The forced ids of the picture, written or read."""
        read = (run.ids for run in self.input_block if isinstance(run, TokenRun))
        written = (step.tokens for step in self.steps)
        return frozenset(chain(self.trailing, *read, *written))

    def codes_of_samples(self, samples: ArrayLike) -> Codes:
        """The codes from what the steps chose [num_steps], each from 0 within its segment. Raises ValueError."""
        chosen = np.asarray(samples, np.int64)
        if chosen.shape != (len(self.steps),):
            raise ValueError(f"{self.name}: got samples of shape {chosen.shape}, expected ({len(self.steps)},)")
        self._check_range(chosen)
        return tuple(chosen[self._level == level].reshape(grid) for level, grid in enumerate(self.grids))

    def tokens_of(self, codes: Sequence[ArrayLike]) -> NDArray[np.int64]:
        """The ids [num_tokens] of a picture: how a drawn picture stands in a conversation. Raises ValueError."""
        arrays = [np.asarray(level, np.int64) for level in codes]
        shapes = [array.shape for array in arrays]
        if shapes != list(self.grids):
            raise ValueError(f"{self.name}: got codes of shapes {shapes}, expected {list(self.grids)}")
        chosen = np.empty(len(self.steps), np.int64)
        for level, array in enumerate(arrays):
            chosen[self._level == level] = array.ravel()
        self._check_range(chosen)
        tokens = self._template.copy()
        tokens[self._sampled] = chosen + self._start
        return tokens

    def codes_of(self, tokens: ArrayLike) -> Codes:
        """The codes in the ids [num_tokens] of a picture; the reverse of `tokens_of`. Raises ValueError."""
        ids = np.asarray(tokens, np.int64)
        if ids.shape != self._template.shape:
            raise ValueError(f"{self.name}: got tokens of shape {ids.shape}, expected {self._template.shape}")
        wrong = np.flatnonzero((ids != self._template) & ~self._sampled)
        if wrong.size:
            at = int(wrong[0])
            raise ValueError(f"{self.name}: token {at} is {ids[at]}, expected the forced {self._template[at]}")
        return self.codes_of_samples(ids[self._sampled] - self._start)

    def _check_range(self, chosen: NDArray[np.int64]) -> None:
        wrong = np.flatnonzero((chosen < 0) | (chosen >= self._size))
        if wrong.size:
            step = self.steps[int(wrong[0])]
            raise ValueError(
                f"{self.name}: {step.segment} has code {chosen[wrong[0]]} at row {step.row}, column {step.column}, "
                f"expected 0 to {self._size[wrong[0]] - 1}"
            )

    @cached_property
    def _level(self) -> NDArray[np.int64]:
        return np.array([step.level for step in self.steps], np.int64)

    @cached_property
    def _start(self) -> NDArray[np.int64]:
        return np.array([self.segments[step.level].start for step in self.steps], np.int64)

    @cached_property
    def _size(self) -> NDArray[np.int64]:
        return np.array([self.segments[step.level].size for step in self.steps], np.int64)

    @cached_property
    def _template(self) -> NDArray[np.int64]:
        """All ids; -1 where a step chooses."""
        ids = [identifier for step in self.steps for identifier in (*step.tokens, -1)]
        return np.array([*ids, *self.trailing], np.int64)

    @cached_property
    def _sampled(self) -> NDArray[np.bool_]:
        return self._template < 0


def schedule_from_grammar(grammar: Grammar, vocabulary: Vocabulary, resolution: str | None = None) -> Schedule:
    """The schedule of the resolution of that name, the first one if None. Raises InvalidBundleError, ValueError."""
    known = grammar.image.resolutions
    for candidate in known:
        if resolution in (None, candidate.name):
            return schedule_from_resolution(candidate, vocabulary)
    raise ValueError(f"there is no resolution {resolution!r}; the model has {', '.join(item.name for item in known)}")


def schedule_from_resolution(resolution: Resolution, vocabulary: Vocabulary) -> Schedule:
    """The compiled programs. Raises InvalidBundleError if they name what is unknown or do not fill the grids."""
    name = resolution.name
    if min(resolution.width, resolution.height) < 1 or not resolution.grids:
        raise InvalidBundleError(
            f"{name}: got {resolution.width}x{resolution.height} and {len(resolution.grids)} grids, expected a picture"
        )
    segments = tuple(vocabulary.segment(f"level{level}") for level in range(len(resolution.grids)))
    steps, trailing = _steps(resolution, segments, vocabulary)
    return Schedule(
        name=name,
        width=resolution.width,
        height=resolution.height,
        grids=resolution.grids,
        segments=segments,
        steps=steps,
        trailing=trailing,
        input_block=_input_block(resolution.input, vocabulary, f"{name}, input"),
        tag=tuple(vocabulary.control(control) for control in resolution.tag),
    )


def schedules_from_grammar(grammar: Grammar, vocabulary: Vocabulary) -> dict[str, Schedule]:
    """All schedules by name, the default first. Raises InvalidBundleError."""
    compiled = (schedule_from_resolution(item, vocabulary) for item in grammar.image.resolutions)
    return {schedule.name: schedule for schedule in compiled}


def any_input_block(grammar: Grammar, vocabulary: Vocabulary, grids: Sequence[tuple[int, int]]) -> InputBlock:
    """How a picture of the [Y, X] grids, one per level, is read. Raises InvalidBundleError."""
    levels = grammar.image.any_input
    if len(levels) != len(grids):
        raise InvalidBundleError(f"grammar.image.any_input: has {len(levels)} levels, a picture has {len(grids)}")
    return _input_block(input_program(levels, tuple(grids)), vocabulary, "grammar.image.any_input")


def num_places(block: InputBlock) -> int:
    """Places that an input picture takes in the context."""
    return sum(len(run.ids) if isinstance(run, TokenRun) else run.count for run in block)


def _steps(
    resolution: Resolution, segments: tuple[Segment, ...], vocabulary: Vocabulary
) -> tuple[tuple[Step, ...], tuple[int, ...]]:
    where = f"{resolution.name}, output"
    levels = {segment.name: level for level, segment in enumerate(segments)}
    drawn = [0] * len(segments)
    steps: list[Step] = []
    forced: list[int] = []
    for operation in _flat(resolution.output, where):
        if isinstance(operation, Embed):
            raise InvalidBundleError(f"{where}: holds embed, which only an input program may")
        if isinstance(operation, Force):
            forced += [vocabulary.control(control) for control in operation.controls]
            continue
        if operation.segment not in levels:
            raise InvalidBundleError(
                f"{where}: samples {operation.segment!r}; the levels of its grids are {', '.join(levels)}"
            )
        level = levels[operation.segment]
        columns = max(resolution.grids[level][1], 1)
        for _ in range(operation.count):
            row, column = divmod(drawn[level], columns)
            steps.append(Step(tuple(forced), operation.segment, level, row, column))
            drawn[level] += 1
            forced.clear()
    for segment, count, (rows, columns) in zip(segments, drawn, resolution.grids, strict=True):
        if min(rows, columns) < 1 or count != rows * columns:
            raise InvalidBundleError(
                f"{where}: {segment.name} is sampled {count} times, expected {rows} x {columns}, the size of its grid"
            )
    return tuple(steps), tuple(forced)


def _input_block(program: Program, vocabulary: Vocabulary, where: str) -> InputBlock:
    places: list[int | None] = []  # an id, or None for an embedding
    for operation in _flat(program, where):
        if isinstance(operation, Sample):
            raise InvalidBundleError(f"{where}: holds sample, which only an output program may")
        if isinstance(operation, Embed):
            places += [None] * operation.count
        else:
            places += [vocabulary.control(control) for control in operation.controls]
    if None not in places:
        raise InvalidBundleError(f"{where}: embeds nothing of the input picture")
    runs: list[TokenRun | EmbedRun] = []
    for embeds, run in groupby(places, key=lambda place: place is None):
        values = list(run)
        runs.append(EmbedRun(len(values)) if embeds else TokenRun(tuple(v for v in values if v is not None)))
    return tuple(runs)


def _flat(program: Program, where: str) -> Iterator[Force | Sample | Embed]:
    """The operations with the repeats unrolled. Raises InvalidBundleError for counts that are no picture's."""
    num_left = MAX_PICTURE_TOKENS

    def walk(part: Program) -> Iterator[Force | Sample | Embed]:
        nonlocal num_left
        for operation in part:
            num_tokens = len(operation.controls) if isinstance(operation, Force) else operation.count
            if num_tokens < 1:
                raise InvalidBundleError(f"{where}: an operation has the count {num_tokens}, expected at least 1")
            num_left -= num_tokens  # a repeat counts too, so that an empty loop ends
            if num_left < 0:
                raise InvalidBundleError(f"{where}: comes to more than {MAX_PICTURE_TOKENS} tokens")
            if isinstance(operation, (Force, Sample, Embed)):
                yield operation
            else:
                for _ in range(operation.count):
                    yield from walk(operation.body)

    return walk(program)
