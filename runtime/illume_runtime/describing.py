"""Answers of a loaded model: to questions about images, or to a conversation, which it may answer with a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from illume_runtime.answering import answer_rows
from illume_runtime.decoder import Embeds
from illume_runtime.images import Source
from illume_runtime.limits import MAX_DRAW_BATCH
from illume_runtime.model import Model
from illume_runtime.prompting import check_context
from illume_runtime.prompts import Prompt
from illume_runtime.requests import opened
from illume_runtime.results import Answer, Cancel, OnText
from illume_runtime.sampling import TextSampling
from illume_runtime.schedule import Schedule


def answers_about(
    model: Model,
    images: Sequence[Source],
    prompts: Sequence[Prompt],
    sampling: TextSampling,
    *,
    on_text: OnText | None,
    cancel: Cancel | None,
) -> list[Answer]:
    """One answer per image and prompt, in batches; `sampling` has no None left."""
    answers: list[Answer] = []
    for first in range(0, len(prompts), MAX_DRAW_BATCH):
        part = slice(first, first + MAX_DRAW_BATCH)
        seen = model.vision.understood(opened(images[part]))
        rows = [model.embeds(prompt, [one]) for prompt, one in zip(prompts[part], seen, strict=True)]
        answered = answers_or_picture(model, rows, sampling, {}, on_text=on_text, cancel=cancel)
        assert isinstance(answered, list)
        answers += answered
    return answers


def answers_or_picture(
    model: Model,
    rows: Sequence[Embeds],
    sampling: TextSampling,
    pictures: Mapping[tuple[int, ...], Schedule],
    *,
    on_text: OnText | None,
    cancel: Cancel | None,
) -> list[Answer] | Schedule:
    """Answers to prompts that fit the context, or the picture that begins instead. Raises UsageError."""
    longest = max(map(len, rows))
    check_context(longest, sampling.max_tokens or 1, model.bundle.model.max_context, "the answer")
    with model.tracer.span("token loop"):
        return answer_rows(
            model.engine,
            model.tokenizer,
            model.bundle.vocabulary,
            rows,
            sampling,
            tracer=model.tracer,
            structure=model.schedule.structure,
            pictures=pictures,
            on_text=on_text,
            cancel=cancel,
        )
