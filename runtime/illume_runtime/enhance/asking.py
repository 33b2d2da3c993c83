"""Questions to a model about pictures that it drew, which re-enter as their tokens; and its own assessment of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from illume_runtime.describing import answers_or_picture
from illume_runtime.enhance.assessment import GOOD, QUESTION, Assessment, assessment, said_in_text
from illume_runtime.enhance.judge import Drawn
from illume_runtime.errors import UsageError
from illume_runtime.limits import MAX_DRAW_BATCH
from illume_runtime.model import Model
from illume_runtime.prompting import check_context
from illume_runtime.prompts import AnswerTurn, UserTurn
from illume_runtime.results import Answer, Cancel
from illume_runtime.sampling import TextSampling, with_defaults
from illume_runtime.schedule import Schedule, TokenRun
from illume_runtime.text import TextTokenizer

MAX_ANSWER = 128  # tokens of an assessment, unless `assess` of generation_config.json says
UNREADABLE = "the model gives no assessment that can be read"


@dataclass(frozen=True, slots=True)
class Told:
    """An answer; `yes` [tokens] is, before each of its tokens, the share of yes against no."""

    answer: Answer
    yes: NDArray[np.float64]


def is_taught(model: Model) -> bool:
    """Whether the model learnt to assess: then its generation_config.json has the task."""
    return "assess" in model.bundle.generation


def told(
    model: Model,
    pictures: Sequence[Drawn],
    questions: Sequence[str],
    *,
    size: str | None,
    max_tokens: int,
    cancel: Cancel | None = None,
) -> list[Told]:
    """The likeliest answers to a question about each picture, decoded as one batch; common beginnings are shared."""
    schedule = model.schedule_of(size)
    rows = []
    for picture, question in zip(pictures, questions, strict=True):
        turns: list[UserTurn | AnswerTurn] = [
            UserTurn(picture.prompt),
            AnswerTurn(TokenRun(_answer_ids(schedule, picture))),
            UserTurn(question),
        ]
        rows.append(model.embeds(model.writer.chat(turns).conditional, ()))
    longest = max(map(len, rows))
    check_context(longest, max_tokens, model.bundle.model.max_context, "the answer")
    start = model.bundle.vocabulary.segment("text").start
    pair = [i - start for i in _yes_and_no(model.tokenizer)]
    shares: list[NDArray[np.float64]] = []

    def watch(logits: NDArray[np.float32]) -> None:
        picked = logits[:, pair].astype(np.float64)  # [B, 2]
        shares.append(1.0 / (1.0 + np.exp(np.clip(picked[..., 1] - picked[..., 0], -700, 700))))

    sampling = with_defaults(TextSampling(temperature=0.0, max_tokens=max_tokens), {}, "assess")
    answers = answers_or_picture(model, rows, sampling, {}, on_text=None, cancel=cancel, on_logits=watch)
    assert isinstance(answers, list)
    steps = np.stack(shares, axis=1)
    return [Told(answer, one) for answer, one in zip(answers, steps, strict=True)]


def own_assessments(
    model: Model, pictures: Sequence[Drawn], *, size: str | None = None, cancel: Cancel | None = None
) -> list[Assessment]:
    """What the model says of each picture; a score is the share of yes where it says yes or no.

    An answer that cannot be read is never good, whatever its last word is like.
    """
    limit = int(model.bundle.generation.get("assess", {}).get("max_tokens", MAX_ANSWER))
    found = []
    for first in range(0, len(pictures), MAX_DRAW_BATCH):
        part = pictures[first : first + MAX_DRAW_BATCH]
        answers = told(model, part, [QUESTION] * len(part), size=size, max_tokens=limit, cancel=cancel)
        found += [_assessment(model.tokenizer, picture, one) for picture, one in zip(part, answers, strict=True)]
    return found


def answers_about_drawn(model: Model, pictures: Sequence[Drawn], questions: Sequence[str]) -> list[str]:
    """The texts of the likeliest answers; common beginnings of the prompts are computed once."""
    limit = int(with_defaults(TextSampling(), model.bundle.generation, "describe").max_tokens or MAX_ANSWER)
    texts = []
    for first in range(0, len(pictures), MAX_DRAW_BATCH):
        part = slice(first, first + MAX_DRAW_BATCH)
        answers = told(model, pictures[part], questions[part], size=None, max_tokens=limit)
        texts += [one.answer.text for one in answers]
    return texts


def _assessment(tokenizer: TextTokenizer, picture: Drawn, one: Told) -> Assessment:
    ids, said = one.answer.token_ids, said_in_text(one.answer.text)
    if said is None:
        score = 0.99 * GOOD * float(one.yes[max(len(ids) - 1, 0)])
        return assessment(picture.id, picture.prompt, "model", {}, score, UNREADABLE)
    lengths = [len(tokenizer.decode(ids[: k + 1])) for k in range(len(ids))]

    def score_at(place: int) -> float:
        return float(one.yes[next(k for k, length in enumerate(lengths) if length > place)])

    dimensions = {name: (score_at(place), analysis) for name, (place, analysis) in said.dimensions.items()}
    return assessment(picture.id, picture.prompt, "model", dimensions, score_at(said.place), said.analysis)


def _answer_ids(schedule: Schedule, picture: Drawn) -> tuple[int, ...]:
    try:
        schedule.codes_of(picture.tokens)
    except ValueError as error:
        raise UsageError(f"picture {picture.id}: {error}; its ids are no picture of this bundle") from error
    return (*schedule.tag, *picture.tokens)


def _yes_and_no(tokenizer: TextTokenizer) -> tuple[int, int]:
    """The tokens in which yes and no first differ within an answer."""
    yes, no = tokenizer.encode("picture yes"), tokenizer.encode("picture no")
    return next((a, b) for a, b in zip(yes, no, strict=False) if a != b)
