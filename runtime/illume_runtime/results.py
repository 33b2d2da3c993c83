"""What the pipeline gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from illume_runtime.schedule import Codes

FinishReason = Literal["end", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in words. `finish_reason` is 'length' where the limit cut it, 'cancelled' where the caller did."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that the model made: the image, its codes per level, and what makes it again.

    A preview has the codes of the first level alone.
    """

    image: Image.Image
    codes: Codes
    prompt: str
    seed: int
    request: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A turn of a chat: words, with the reason why they end (see `Answer`), or the picture that the model drew."""

    text: str
    picture: Picture | None
    finish_reason: FinishReason = "end"


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` steps of a phase; `preview` is a new coarse image of the first picture, or None."""

    phase: Literal["tokens", "diffusion", "pixels"]
    done: int
    total: int
    preview: Image.Image | None


OnProgress = Callable[[Progress], None]
OnPreview = Callable[[Picture], None]
OnText = Callable[[str], None]
Cancel = Callable[[], bool]
