"""Runs requests of each kind against a pipeline and reports where the time went."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from time import perf_counter
from typing import TYPE_CHECKING

from illume_runtime.errors import EngineError
from illume_runtime.profile.report import REQUEST
from illume_runtime.trace import Tracer

if TYPE_CHECKING:
    from PIL.Image import Image

    from illume_runtime.pipeline import Pipeline
    from illume_runtime.sampling import Quality

PROMPT = "a red circle left of a blue square"
INSTRUCTION = "make the background green"
KINDS = ("describe", "draw", "edit", "reconstruct")


def request_of(
    kind: str,
    pipeline: Pipeline,
    tracer: Tracer,
    image: Image,
    *,
    size: str | None = None,
    quality: Quality | None = None,
    max_tokens: int | None = None,
) -> Callable[[], None]:
    """A function that makes one request of a kind, up to the PNG where it draws; what is None is the bundle's own."""
    from illume_runtime.images import write_png
    from illume_runtime.pipeline import ImageSampling, TextSampling

    drawing, answering = ImageSampling(quality=quality), TextSampling(max_tokens=max_tokens)

    def png_of(picture: Image) -> None:
        with tracer.span("png"):
            write_png(picture, BytesIO())

    def describe() -> None:
        pipeline.describe(image, sampling=answering)

    def draw() -> None:
        png_of(pipeline.draw(PROMPT, size=size, sampling=drawing)[0].image)

    def edit() -> None:
        png_of(pipeline.edit(image, INSTRUCTION, sampling=drawing)[0].image)

    def reconstruct() -> None:
        png_of(pipeline.reconstruct(image, sampling=drawing).image)

    return {"describe": describe, "draw": draw, "edit": edit, "reconstruct": reconstruct}[kind]


def measure(
    name: str,
    request: Callable[[], None],
    tracer: Tracer,
    *,
    repeats: int,
    warm_up: int,
    on_step: Callable[[int, int], None],
) -> None:
    """Make the request `warm_up` times untraced, then `repeats` times as spans of the category `request`."""
    tracer.enabled = False
    for step in range(warm_up):
        request()
        on_step(step + 1, warm_up + repeats)
    tracer.enabled = True
    for step in range(repeats):
        with tracer.span(name, REQUEST):
            request()
        on_step(warm_up + step + 1, warm_up + repeats)


def cold_start_ms(command: Sequence[str], *, repeats: int) -> list[float]:
    """Milliseconds from the start of `illume COMMAND` in a new process to the first byte that it prints."""
    return [first_byte_ms(["illume_runtime", *command]) for _ in range(repeats)]


def first_byte_ms(command: Sequence[str]) -> float:
    """Milliseconds from the start of `python -m COMMAND` to the first byte that it prints.

    Raises EngineError with the process's own words if it prints nothing.
    """
    start_s = perf_counter()
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.read(1)
        time_ms = (perf_counter() - start_s) * 1e3
        process.stdout.read()
        words = process.stderr.read().decode(errors="replace").strip()
    if not first:
        raise EngineError(f"cold start: python -m {' '.join(command)} printed nothing: {words}")
    return time_ms
