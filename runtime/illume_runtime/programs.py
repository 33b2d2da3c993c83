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
class Resolution:
    """A picture size with the programs that write (`output`) and read (`input`) it; `grids` is [Y, X] per level."""

    name: str
    width: int
    height: int
    grids: tuple[tuple[int, int], ...]
    output: Program
    input: Program


@dataclass(frozen=True, slots=True)
class ImageGrammar:
    """All picture sizes; the first one is the default."""

    resolutions: tuple[Resolution, ...]
