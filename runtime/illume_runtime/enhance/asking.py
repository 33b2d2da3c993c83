"""Questions to a model about pictures that it drew, which re-enter as their tokens; and its own assessment of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from illume_runtime.answering import answer_rows
from illume_runtime.decoder import TokenEngine
from illume_runtime.enhance.assessment import QUESTION, Assessment, assessment, said_in_text
from illume_runtime.enhance.judge import Drawn
from illume_runtime.errors import UsageError
from illume_runtime.limits import MAX_DRAW_BATCH
from illume_runtime.prompting import check_context, embeds_of_prompt
from illume_runtime.prompts import AnswerTurn, PromptWriter, UserTurn
from illume_runtime.results import Answer, Cancel
from illume_runtime.sampling import TextSampling, with_defaults
from illume_runtime.schedule import Schedule, TokenRun
from illume_runtime.stages import Stages
from illume_runtime.text import TextTokenizer

MAX_ANSWER = 128  # tokens of an assessment, unless `assess` of generation_config.json says
UNREADABLE = "the model gives no assessment that can be read"


@dataclass(frozen=True, slots=True)
class Asked:
    """The loaded parts of a bundle that answering takes."""

    stages: Stages
    engine: TokenEngine
    tokenizer: TextTokenizer
    writer: PromptWriter
    schedule: Schedule


@dataclass(frozen=True, slots=True)
class Told:
    """An answer; `yes` [tokens, 2] is, before each token, the share of yes against no: as a first word, and later."""

    answer: Answer
    yes: NDArray[np.float64]


def is_taught(stages: Stages) -> bool:
    """Whether the model learnt to assess: then its generation_config.json has the task."""
    return "assess" in stages.bundle.generation


def told(
    asked: Asked,
    pictures: Sequence[Drawn],
    questions: Sequence[str],
    *,
    max_tokens: int,
    cancel: Cancel | None = None,
) -> list[Told]:
    """The likeliest answers to a question about each picture, decoded as one batch; common beginnings are shared."""
    bundle, vocabulary = asked.stages.bundle, asked.stages.bundle.vocabulary
    rows = []
    for picture, question in zip(pictures, questions, strict=True):
        turns: list[UserTurn | AnswerTurn] = [
            UserTurn(picture.prompt),
            AnswerTurn(TokenRun(_answer_ids(asked, picture))),
            UserTurn(question),
        ]
        rows.append(embeds_of_prompt(asked.engine, asked.writer.chat(turns).conditional, ()))
    longest = max(map(len, rows))
    check_context(longest, max_tokens, bundle.model.max_context, "the answer")
    start = vocabulary.segment("text").start
    pairs = [[i - start for i in pair] for pair in _yes_and_no(asked.tokenizer)]
    shares: list[NDArray[np.float64]] = []

    def watch(logits: NDArray[np.float32]) -> None:
        picked = logits[:, pairs].astype(np.float64)  # [B, 2, 2]
        shares.append(1.0 / (1.0 + np.exp(np.clip(picked[..., 1] - picked[..., 0], -700, 700))))

    sampling = TextSampling(temperature=0.0, max_tokens=max_tokens)
    answers = answer_rows(
        asked.engine,
        asked.tokenizer,
        vocabulary,
        rows,
        with_defaults(sampling, {}, "assess"),
        tracer=asked.stages.tracer,
        structure=asked.schedule.structure,
        pictures={},
        on_text=None,
        cancel=cancel,
        on_logits=watch,
    )
    assert isinstance(answers, list)
    steps = np.stack(shares, axis=1)
    return [Told(answer, one) for answer, one in zip(answers, steps, strict=True)]


def own_scores(asked: Asked, pictures: Sequence[Drawn], *, cancel: Cancel | None = None) -> list[float]:
    """The share of yes in the verdict on each picture: a prefill, and no token."""
    return [
        float(one.yes[0, 0]) for one in told(asked, pictures, [QUESTION] * len(pictures), max_tokens=1, cancel=cancel)
    ]


def own_assessments(asked: Asked, pictures: Sequence[Drawn], *, cancel: Cancel | None = None) -> list[Assessment]:
    """What the model says of each picture; a score is the share of yes where it says yes or no."""
    limit = int(asked.stages.bundle.generation.get("assess", {}).get("max_tokens", MAX_ANSWER))
    found = []
    for first in range(0, len(pictures), MAX_DRAW_BATCH):
        part = pictures[first : first + MAX_DRAW_BATCH]
        answers = told(asked, part, [QUESTION] * len(part), max_tokens=limit, cancel=cancel)
        found += [_assessment(asked.tokenizer, picture, one) for picture, one in zip(part, answers, strict=True)]
    return found


def answers_about_drawn(asked: Asked, pictures: Sequence[Drawn], questions: Sequence[str]) -> list[str]:
    """The texts of the likeliest answers; common beginnings of the prompts are computed once."""
    limit = int(with_defaults(TextSampling(), asked.stages.bundle.generation, "describe").max_tokens or MAX_ANSWER)
    texts = []
    for first in range(0, len(pictures), MAX_DRAW_BATCH):
        part = slice(first, first + MAX_DRAW_BATCH)
        texts += [one.answer.text for one in told(asked, pictures[part], questions[part], max_tokens=limit)]
    return texts


def _assessment(tokenizer: TextTokenizer, picture: Drawn, one: Told) -> Assessment:
    score, said = float(one.yes[0, 0]), said_in_text(one.answer.text)
    if said is None:
        return assessment(picture.id, picture.prompt, "model", {}, score, UNREADABLE)
    ids = one.answer.token_ids
    lengths = [len(tokenizer.decode(ids[: k + 1])) for k in range(len(ids))]
    dimensions = {}
    for name, (place, analysis) in said.dimensions.items():
        step = next(k for k, length in enumerate(lengths) if length > place)
        dimensions[name] = float(one.yes[step, 1]), analysis
    return assessment(picture.id, picture.prompt, "model", dimensions, score, said.analysis)


def _answer_ids(asked: Asked, picture: Drawn) -> tuple[int, ...]:
    try:
        asked.schedule.codes_of(picture.tokens)
    except ValueError as error:
        raise UsageError(f"picture {picture.id}: {error}; its ids are no picture of this bundle") from error
    return (*asked.schedule.tag, *picture.tokens)


def _yes_and_no(tokenizer: TextTokenizer) -> list[tuple[int, int]]:
    """The tokens in which yes and no first differ, at the beginning of an answer and within it."""
    pairs = []
    for before in ("", "object "):
        yes, no = tokenizer.encode(f"{before}yes"), tokenizer.encode(f"{before}no")
        pairs.append(next((a, b) for a, b in zip(yes, no, strict=False) if a != b))
    return pairs
