"""A model's own assessment of pictures that it drew: it writes down what the prompt wants to see, and is asked that.

Pictures re-enter as their tokens, without the prompt, which would tell what to answer. What counts is how sure the
model is of the wanted answer, not its likeliest answer alone: a picture is ranked by the least doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_runtime.bundle import Bundle
from illume_runtime.describing import answers_or_picture
from illume_runtime.enhance.assessment import AnsweredCheck, Assessment, assessment
from illume_runtime.enhance.checklist import DIMENSIONS, Check, checklist_from_text, checklist_request
from illume_runtime.enhance.judge import Drawn
from illume_runtime.errors import UsageError
from illume_runtime.model import Model
from illume_runtime.prompting import check_context
from illume_runtime.prompts import UserTurn
from illume_runtime.results import Answer, Cancel
from illume_runtime.sampling import TextSampling, with_defaults
from illume_runtime.schedule import Schedule, TokenRun
from illume_runtime.token_engine import Embeds

Checklist = tuple[Check, ...]
MAX_CHECKLIST: Final = 256  # tokens, unless `assess` of generation_config.json says
NO_CHECKLIST: Final = "the model writes no checklist for this prompt that can be read"
_TASK: Final = "assess"
_RAMBLE: Final = 4  # tokens by which an answer may be longer than the longest wanted one


def is_taught(bundle: Bundle) -> bool:
    """Whether the model learnt to write checklists: then its generation_config.json has the task."""
    return _TASK in bundle.generation


def checklists_of(model: Model, prompts: Sequence[str], *, cancel: Cancel | None = None) -> list[Checklist]:
    """What the model says that each prompt wants; empty where it cannot be read.

    Raises UsageError for a model that did not learn it: its generation_config.json has no task 'assess'.
    """
    if not is_taught(model.bundle):
        raise UsageError(
            "this model did not learn to assess pictures (generation_config.json has no task 'assess'); train it with "
            "a corpus of `illume enhance build`, draw without --best-of and --redraw-below, or assess with "
            "--judge questions"
        )
    limit = int(model.bundle.generation[_TASK].get("max_tokens", MAX_CHECKLIST))
    unique = list(dict.fromkeys(prompts))
    written: dict[str, Checklist] = {}
    most = model.max_answers
    for first in range(0, len(unique), most):
        part = unique[first : first + most]
        turns = [UserTurn(checklist_request(prompt)) for prompt in part]
        rows = [model.embeds(model.writer.chat([turn]).conditional, ()) for turn in turns]
        longest, most = max(map(len, rows)), model.bundle.model.max_context
        check_context(longest, 1, most, "the checklist")
        answers, _ = _answers(model, rows, [()] * len(rows), min(limit, most - longest), cancel)
        written |= {prompt: _checklist(answer.text) for prompt, answer in zip(part, answers, strict=True)}
    return [written[prompt] for prompt in prompts]


def own_assessments(
    model: Model,
    pictures: Sequence[Drawn],
    checklists: Sequence[Checklist] | None = None,
    *,
    size: str | None = None,
    cancel: Cancel | None = None,
) -> list[Assessment]:
    """What the model says of each picture; the checklists are its own unless they are given.

    The score of a dimension is the product of the chances of its wanted answers, that of the whole the product of all.
    A picture without a checklist has the score 0.
    """
    if checklists is None:
        checklists = checklists_of(model, [picture.prompt for picture in pictures], cancel=cancel)
    schedule = model.schedule_of(size)
    ids = [_answer_ids(schedule, picture) for picture in pictures]
    asked = [(place, check) for place, checks in enumerate(checklists) for check in checks]
    found: list[list[AnsweredCheck]] = [[] for _ in pictures]
    most = model.max_answers
    for first in range(0, len(asked), most):
        part = asked[first : first + most]
        runs = [TokenRun(ids[place]) for place, _ in part]
        for (place, _), one in zip(part, _answered(model, runs, [check for _, check in part], cancel), strict=True):
            found[place].append(one)
    return [_assessment(picture, checks) for picture, checks in zip(pictures, found, strict=True)]


def _answered(
    model: Model, pictures: Sequence[TokenRun], checks: Sequence[Check], cancel: Cancel | None
) -> list[AnsweredCheck]:
    """A question about each picture as one batch, in which pictures that are asked about several times stand once."""
    rows = [
        model.embeds(model.writer.about_drawn(picture, check.question), ())
        for picture, check in zip(pictures, checks, strict=True)
    ]
    wanted = [tuple(model.tokenizer.encode(check.wanted)) for check in checks]
    limit = max(map(len, wanted)) + _RAMBLE
    check_context(max(map(len, rows)), limit, model.bundle.model.max_context, "the answer")
    answers, chances = _answers(model, rows, wanted, limit, cancel)
    return [
        AnsweredCheck(check.dimension, check.question, check.wanted, _plain(answer.text) or "nothing", chance)
        for check, answer, chance in zip(checks, answers, chances, strict=True)
    ]


def _answers(
    model: Model, rows: Sequence[Embeds], wanted: Sequence[tuple[int, ...]], limit: int, cancel: Cancel | None
) -> tuple[list[Answer], list[float]]:
    """The likeliest answers, and how likely the wanted ones [ids] are, up to where the likeliest departs from them."""
    start = model.bundle.vocabulary.segment("text").start
    longest = max(map(len, wanted))
    log_chances: list[NDArray[np.float64]] = []  # of each step [B]: of the row's wanted token

    def watch(logits: NDArray[np.float32]) -> None:
        step = len(log_chances)
        if step < longest:
            index = np.array([ids[step] - start if step < len(ids) else 0 for ids in wanted])
            highest = logits.max(axis=1, keepdims=True)
            total = np.log(np.exp(logits - highest).sum(axis=1, dtype=np.float64))
            log_chances.append((logits - highest)[np.arange(len(wanted)), index].astype(np.float64) - total)

    sampling = with_defaults(TextSampling(temperature=0.0, max_tokens=limit), {}, _TASK)
    answers = answers_or_picture(model, rows, sampling, {}, on_text=None, cancel=cancel, on_logits=watch)
    assert isinstance(answers, list)
    chances = []
    for row, (ids, answer) in enumerate(zip(wanted, answers, strict=True)):
        log_chance = 0.0
        for step, token in enumerate(ids[: len(log_chances)]):
            log_chance += float(log_chances[step][row])
            if answer.token_ids[step : step + 1] != (token,):
                break
        chances.append(min(1.0, math.exp(log_chance)))
    return answers, chances


def _assessment(picture: Drawn, checks: Sequence[AnsweredCheck]) -> Assessment:
    if not checks:
        return assessment(picture.id, picture.prompt, "model", {}, 0.0, NO_CHECKLIST)
    scores = [one.score or 0.0 for one in checks]
    dimensions = {}
    for name in DIMENSIONS:
        own = [(one, score) for one, score in zip(checks, scores, strict=True) if one.dimension == name]
        if own:
            wrong = [_finding(one) for one, _ in own if one.answer != one.wanted]
            dimensions[name] = math.prod(score for _, score in own), " and ".join(wrong) or "as asked"
    least = min(range(len(checks)), key=scores.__getitem__)
    score = math.prod(scores)
    analysis = "all is as asked" if all(one.answer == one.wanted for one in checks) else _finding(checks[least])
    return assessment(picture.id, picture.prompt, "model", dimensions, score, analysis, checks)


def _finding(one: AnsweredCheck) -> str:
    return f"{one.question.removesuffix('?')}: {one.answer}, not {one.wanted}"


def _checklist(text: str) -> Checklist:
    try:
        return checklist_from_text(text.strip())
    except ValueError:
        return ()


def _plain(text: str) -> str:
    """The words of an answer, as an analysis has them."""
    return " ".join(text.replace(".", " ").split())


def _answer_ids(schedule: Schedule, picture: Drawn) -> tuple[int, ...]:
    try:
        schedule.codes_of(picture.tokens)
    except ValueError as error:
        raise UsageError(f"picture {picture.id}: {error}; its ids are no picture of this bundle") from error
    return (*schedule.tag, *picture.tokens)
