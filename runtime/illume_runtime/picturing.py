"""Pictures of a loaded model: from guided prompts over visual tokens to images, or from tokens that are there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from illume_runtime.detokenizing import check_preview, is_draft, pixels_of_codes, preview_pixels
from illume_runtime.errors import UsageError
from illume_runtime.images import image_from_pixels
from illume_runtime.model import Model
from illume_runtime.prompting import check_context
from illume_runtime.requests import PictureRequest, batches, token_batches
from illume_runtime.residency import LANGUAGE
from illume_runtime.results import Cancel, OnPreview, OnProgress, Picture
from illume_runtime.sampling import ImageSampling, with_defaults
from illume_runtime.schedule import Codes, Schedule, num_places
from illume_runtime.token_engine import OnLevel0, TokenRequest


def pictures_of_requests(
    model: Model,
    requests: Sequence[PictureRequest],
    sampling: ImageSampling,
    *,
    on_progress: OnProgress | None,
    on_preview: OnPreview | None,
    cancel: Cancel | None,
) -> list[Picture]:
    """Pictures in the order of their requests, drawn in batches; `sampling` has no None left. Raises UsageError."""
    if on_preview is not None:
        for request in requests:
            check_preview(model.stages, request.schedule)
    tokens = [token_request(model, request, number) for number, request in enumerate(requests)]
    previews = on_progress is not None and "code_color" in model.bundle.manifest.tables
    color = model.bundle.table("code_color") if previews else None
    codes: dict[int, Codes] = {}
    schedules = [request.schedule for request in requests]
    for numbers in token_batches(schedules):
        with model.tracer.span("token loop"), model.stages.in_use(LANGUAGE):  # a preview loads a decoder of pixels
            drawn = model.engine.codes(
                [tokens[i] for i in numbers],
                sampling,
                code_color=color,
                on_progress=on_progress,
                on_level0=_previewing(model, [requests[i] for i in numbers], numbers, sampling, on_preview),
                cancel=cancel,
            )
        codes |= zip(numbers, drawn, strict=True)
    pictures: list[Picture] = []
    for schedule, numbers in batches(schedules):
        part = [codes[i] for i in numbers]
        texts, sources = [requests[i].text for i in numbers], [requests[i].source for i in numbers]
        pictures += _rendered(model, schedule, part, numbers, texts, sources, sampling, on_progress, cancel)
    return sorted(pictures, key=lambda picture: picture.request)


def pictures_of_images(
    model: Model,
    images: Sequence[Image.Image],
    sampling: ImageSampling,
    *,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
) -> list[Picture]:
    """Images through their own visual tokens and back, in their own sizes; `sampling` has no None left."""
    pictures: list[Picture] = []
    for schedule, numbers in batches([model.vision.schedule_for(image) for image in images]):
        part = [images[i] for i in numbers]
        codes = model.vision.codes(part)
        pictures += _rendered(model, schedule, codes, numbers, [""] * len(part), part, sampling, on_progress, cancel)
    return sorted(pictures, key=lambda picture: picture.request)


def full_image_sampling(model: Model, sampling: ImageSampling | None, task: str) -> ImageSampling:
    """The sampling with the task's defaults. Raises UsageError for what the bundle cannot do."""
    full = with_defaults(sampling or ImageSampling(), model.bundle.generation, task)
    is_draft(model.stages, full)
    most = model.bundle.scheduler.max_steps
    if full.steps is not None and full.steps > most:
        raise UsageError(f"steps: got {full.steps}, expected at most {most}, as this bundle's scheduler says")
    return full


def token_request(model: Model, request: PictureRequest, number: int) -> TokenRequest:
    """A request with its number for the seed, in embeddings. Raises UsageError where the context is too short."""
    prompt = request.prompt
    rows = (model.embeds(prompt.conditional, request.seen), model.embeds(prompt.unconditional, request.seen))
    longest = max(map(len, rows))
    places = [num_places(one.block) for one in request.seen]
    check_context(longest, request.schedule.num_tokens, model.bundle.model.max_context, "the picture", places)
    return TokenRequest(request.schedule, *rows, number, prompt.constant)


def _previewing(
    model: Model,
    requests: Sequence[PictureRequest],
    numbers: Sequence[int],
    sampling: ImageSampling,
    on_preview: OnPreview | None,
) -> OnLevel0 | None:
    """What gives `on_preview` a picture for each first level that is complete."""
    if on_preview is None:
        return None

    def on_level0(place: int, codes: NDArray[np.int64]) -> None:
        request = requests[place]
        image = image_from_pixels(preview_pixels(model.stages, request.schedule, codes))
        if request.source is not None:
            image = model.vision.restored(image, request.source.size)
        on_preview(Picture(image, (codes.copy(),), request.text, sampling.seed, numbers[place]))

    return on_level0


def _rendered(
    model: Model,
    schedule: Schedule,
    codes: Sequence[Codes],
    numbers: Sequence[int],
    texts: Sequence[str],
    sources: Sequence[Image.Image | None],
    sampling: ImageSampling,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
) -> list[Picture]:
    pixels = pixels_of_codes(model.stages, schedule, codes, numbers, sampling, on_progress=on_progress, cancel=cancel)
    with model.tracer.span("image"):
        pairs = zip(map(image_from_pixels, pixels), sources, strict=True)
        images = [image if source is None else model.vision.restored(image, source.size) for image, source in pairs]
    return [
        Picture(image, one, text, sampling.seed, number)
        for image, one, text, number in zip(images, codes, texts, numbers, strict=True)
    ]
