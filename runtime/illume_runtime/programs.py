"""Image programs: what a picture looks like as tokens, in the words of `docs/bundle.md`, Grammar."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Union


@dataclass(frozen=True, slots=True)
class Force:
    """Append these control tokens."""

    controls: tuple[str, ...] = field(metadata={"json": "force"})


@dataclass(frozen=True, slots=True)
class Sample:
    """Draw `count` tokens from a segment."""

    segment: str = field(metadata={"json": "sample"})
    count: int


@dataclass(frozen=True, slots=True)
class Embed:
    """Take the next `count` continuous embeddings of the input picture."""

    count: int = field(metadata={"json": "embed"})


@dataclass(frozen=True, slots=True)
class Repeat:
    """Run the body `count` times."""

    count: int = field(metadata={"json": "repeat"})
    body: tuple[Operation, ...]


Operation = Union[Force, Sample, Embed, Repeat]  # noqa: UP007 - the name is used above before it exists
Program = tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class LevelRows:
    """How the rows of one level of an input picture of any size are framed by control tokens."""

    before: tuple[str, ...]
    row_end: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resolution:
    """A picture size with the programs that write (`output`) and read (`input`) it; `grids` is [Y, X] per level.

    `tag` are the control tokens that name the size in a prompt.
    """

    name: str
    width: int
    height: int
    grids: tuple[tuple[int, int], ...]
    output: Program
    input: Program
    tag: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageGrammar:
    """All picture sizes that can be drawn, the default first; `any_input` reads those of any size, level by level."""

    resolutions: tuple[Resolution, ...]
    any_input: tuple[LevelRows, ...] = ()


def input_program(levels: tuple[LevelRows, ...], grids: tuple[tuple[int, int], ...]) -> Program:
    """The program that reads a picture of the [Y, X] grids, one per level."""
    program: list[Operation] = []
    for level, (rows, columns) in zip(levels, grids, strict=True):
        program += [
            Force(level.before),
            Repeat(rows, (Embed(columns), Force(level.row_end))),
            Force(level.after),
        ]
    return tuple(program)
