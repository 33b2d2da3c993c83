"""The best of several pictures by the model's own judgement.

The model writes down what the prompt wants to see. All candidates' tokens are drawn as one batch and re-enter as one
batch with the questions behind them. Only the best one becomes pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from illume_runtime.detokenizing import pixels_of_codes
from illume_runtime.enhance.asking import checklists_of, own_assessments
from illume_runtime.enhance.assessment import Assessment
from illume_runtime.enhance.judge import Drawn
from illume_runtime.errors import QualityError, UsageError
from illume_runtime.images import image_from_pixels
from illume_runtime.limits import MAX_DRAW_BATCH, MAX_REDRAWS
from illume_runtime.model import Model
from illume_runtime.picturing import token_request
from illume_runtime.requests import PictureRequest
from illume_runtime.results import Cancel, OnProgress, Picture
from illume_runtime.sampling import ImageSampling
from illume_runtime.schedule import Codes


@dataclass(frozen=True, slots=True)
class BestOf:
    """`candidates` at once; below the score `redraw_below` as many again, in `rounds` at most. Raises UsageError."""

    candidates: int = 4
    redraw_below: float = 0.0
    rounds: int = 4

    def __post_init__(self) -> None:
        for name, value, most in (
            ("candidates", self.candidates, MAX_DRAW_BATCH),
            ("rounds", self.rounds, MAX_REDRAWS),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise UsageError(f"{name}: got {value!r}, expected a whole number from 1 to {most}")
        if not 0.0 <= self.redraw_below <= 1.0:
            raise UsageError(f"redraw_below: got {self.redraw_below!r}, expected a number from 0 to 1")


@dataclass(frozen=True, slots=True)
class BestPicture:
    """The picture, what the model says of it, and the scores of all candidates by their number (`picture.request`)."""

    picture: Picture
    assessment: Assessment
    scores: tuple[float, ...]


def best_picture(
    model: Model,
    prompt: str,
    best_of: BestOf,
    sampling: ImageSampling,
    *,
    size: str | None,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
) -> BestPicture:
    """The best picture; `sampling` has no None left. It is the one of its number that drawing so many would give.

    Raises UsageError for a model that did not learn to assess, QualityError where no candidate reaches the score.
    """
    schedule = model.schedule_of(size)
    request = PictureRequest(prompt, model.writer.draw(prompt, schedule.tag), schedule)
    with model.tracer.span("assess"):
        (checks,) = checklists_of(model, [prompt], cancel=cancel)
    codes: list[Codes] = []
    found: list[Assessment] = []
    for first in range(0, best_of.candidates * best_of.rounds, best_of.candidates):
        numbers = range(first, first + best_of.candidates)
        codes += _codes(model, request, numbers, sampling, on_progress, cancel)
        with model.tracer.span("assess"):
            pictures = [_drawn(request, codes[i], i) for i in numbers]
            found += own_assessments(model, pictures, [checks] * len(pictures), size=size, cancel=cancel)
        scores = [one.overall.score for one in found]
        if max(scores) >= best_of.redraw_below:
            break
    best = scores.index(max(scores))
    if scores[best] < best_of.redraw_below:
        raise QualityError(
            f"of {len(scores)} pictures the best has the score {scores[best]:.3f}, expected at least "
            f"{best_of.redraw_below:g}; lower --redraw-below, or draw more with --best-of"
        )
    pixels = pixels_of_codes(
        model.stages, schedule, [codes[best]], [best], sampling, on_progress=on_progress, cancel=cancel
    )
    picture = Picture(image_from_pixels(pixels[0]), codes[best], prompt, sampling.seed, best)
    return BestPicture(picture, found[best], tuple(scores))


def _codes(
    model: Model,
    request: PictureRequest,
    numbers: Sequence[int],
    sampling: ImageSampling,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
) -> list[Codes]:
    candidates = [token_request(model, request, number) for number in numbers]
    with model.tracer.span("token loop"):
        return model.engine.codes(candidates, sampling, on_progress=on_progress, cancel=cancel)


def _drawn(request: PictureRequest, codes: Codes, number: int) -> Drawn:
    return Drawn(str(number), request.text, tuple(request.schedule.tokens_of(codes).tolist()))
