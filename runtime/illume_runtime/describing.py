"""Answers of a loaded model: to questions about images, or to a conversation, which it may answer with a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from PIL import Image

from illume_runtime.answering import answer_rows
from illume_runtime.images import Source
from illume_runtime.model import Model
from illume_runtime.prompting import check_context
from illume_runtime.prompts import Prompt
from illume_runtime.requests import opened
from illume_runtime.results import Answer, Cancel, OnText
from illume_runtime.sampling import TextSampling, with_defaults
from illume_runtime.schedule import Schedule
from illume_runtime.token_engine import Embeds, OnLogits


def answers_about(
    model: Model,
    images: Sequence[Source],
    prompts: Sequence[Prompt],
    sampling: TextSampling | None,
    *,
    on_text: OnText | None,
    cancel: Cancel | None,
) -> list[Answer]:
    """One answer per image and prompt, in batches."""
    answers: list[Answer] = []
    most = model.max_answers
    for first in range(0, len(prompts), most):
        part = slice(first, first + most)
        sources = opened(images[part])
        full = full_text_sampling(model, sampling, prompts[part], [[source] for source in sources])
        seen = model.vision.understood(sources)
        rows = [model.embeds(prompt, [one]) for prompt, one in zip(prompts[part], seen, strict=True)]
        answered = answers_or_picture(model, rows, full, {}, on_text=on_text, cancel=cancel, first=first)
        assert isinstance(answered, list)
        answers += answered
    return answers


def full_text_sampling(
    model: Model, sampling: TextSampling | None, prompts: Sequence[Prompt], images: Sequence[Sequence[Image.Image]]
) -> TextSampling:
    """The sampling with the defaults, for prompts with their images, before anything is encoded.

    The default limit of an answer becomes what the context holds behind the longest prompt; one that was asked for and
    does not fit raises UsageError.
    """
    full = with_defaults(sampling or TextSampling(), model.bundle.generation, "describe")
    limit, most = full.max_tokens or 1, model.bundle.model.max_context
    for prompt, shown in zip(prompts, images, strict=True):
        places = [model.vision.num_places(image) for image in shown]
        length = prompt.num_tokens(places)
        if sampling is None or sampling.max_tokens is None:
            limit = max(min(limit, most - length), 1)
        check_context(length, limit, most, "the answer", places)
    return replace(full, max_tokens=limit)


def answers_or_picture(
    model: Model,
    rows: Sequence[Embeds],
    sampling: TextSampling,
    pictures: Mapping[tuple[int, ...], Schedule],
    *,
    on_text: OnText | None,
    cancel: Cancel | None,
    first: int = 0,
    on_logits: OnLogits | None = None,
) -> list[Answer] | Schedule:
    """Answers to prompts, or the picture that begins instead; `sampling` has no None left."""
    with model.tracer.span("token loop"):
        return answer_rows(
            model.engine,
            model.tokenizer,
            model.bundle.vocabulary,
            rows,
            sampling,
            structure=model.schedule.structure,
            pictures=pictures,
            on_text=on_text,
            cancel=cancel,
            first=first,
            on_logits=on_logits,
        )
