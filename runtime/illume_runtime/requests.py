"""Requests for pictures, and the checks that every request passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from illume_runtime.errors import UsageError
from illume_runtime.images import Source, open_image
from illume_runtime.limits import MAX_DRAW_BATCH
from illume_runtime.prompts import GuidedPrompt
from illume_runtime.schedule import Schedule
from illume_runtime.vision import Seen


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """One picture to be drawn: what the user said, the prompt and the images in it, and its size.

    `source` is the image whose size the picture gets back.
    """

    text: str
    prompt: GuidedPrompt
    schedule: Schedule
    seen: Sequence[Seen] = ()
    source: Image.Image | None = None


def batches(schedules: Sequence[Schedule]) -> Iterator[tuple[Schedule, list[int]]]:
    """Requests whose pixels are made together, by number: of one size, at most MAX_DRAW_BATCH."""
    by_name: dict[str, list[int]] = {}
    for number, schedule in enumerate(schedules):
        by_name.setdefault(schedule.name, []).append(number)
    for numbers in by_name.values():
        for first in range(0, len(numbers), MAX_DRAW_BATCH):
            yield schedules[numbers[0]], numbers[first : first + MAX_DRAW_BATCH]


def token_batches(schedules: Sequence[Schedule]) -> Iterator[list[int]]:
    """Requests whose tokens are drawn together, at most MAX_DRAW_BATCH, by their numbers; like sizes stay together."""
    by_steps = sorted(range(len(schedules)), key=lambda i: (-len(schedules[i].steps), schedules[i].name))
    for first in range(0, len(by_steps), MAX_DRAW_BATCH):
        yield sorted(by_steps[first : first + MAX_DRAW_BATCH])


def opened(images: Sequence[Source]) -> list[Image.Image]:
    """The images, each source opened once."""
    known: dict[int, Image.Image] = {}
    for source in images:
        if id(source) not in known:
            known[id(source)] = open_image(source)
    return [known[id(source)] for source in images]


def check_pairs(images: Sequence[Source], texts: Sequence[str | None], what: str) -> None:
    """Raises UsageError unless each image has a text."""
    if len(images) != len(texts):
        raise UsageError(f"got {len(images)} images and {len(texts)} {what}, expected one for each image")


def checked_count(n: int) -> int:
    """The number of pictures of one request. Raises UsageError."""
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_DRAW_BATCH:
        raise UsageError(f"n: got {n!r}, expected a whole number from 1 to {MAX_DRAW_BATCH}")
    return n
