"""Answers in words: a batch of prompts, decoded until every one has ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from illume_kernels.oracle import repetition_penalty, sample
from illume_runtime.errors import EngineError
from illume_runtime.manifest import Vocabulary
from illume_runtime.results import Answer, Cancel, FinishReason, OnText
from illume_runtime.sampling import TextSampling, params_of_rows
from illume_runtime.schedule import Schedule
from illume_runtime.text import TextTokenizer
from illume_runtime.token_engine import Embeds, Engine
from illume_runtime.trace import Tracer


@dataclass(slots=True)
class _Row:
    ids: list[int] = field(default_factory=list)
    finish: FinishReason | None = None


def answer_rows(
    engine: Engine,
    tokenizer: TextTokenizer,
    vocabulary: Vocabulary,
    rows: Sequence[Embeds],
    sampling: TextSampling,
    *,
    tracer: Tracer,
    structure: Collection[int],
    pictures: Mapping[tuple[int, ...], Schedule],
    on_text: OnText | None,
    cancel: Cancel | None,
    on_logits: Callable[[NDArray[np.float32]], None] | None = None,
) -> list[Answer] | Schedule:
    """One answer per row; a schedule if the (only) row begins a picture of that size instead of words.

    `sampling` has no None left. `on_text` gets the first row's text as it comes, `on_logits` the
    logits [B, n] of each step, which are valid until it returns. `structure` are the ids that only
    stand in pictures: they are never chosen. A picture begins with a tag of `pictures`, which may be empty, and
    `start_of_image`; where there are none, no row begins one.
    """
    segment = vocabulary.segment("text")
    opening = vocabulary.control("start_of_image")
    ends = {vocabulary.control("end") - segment.start, vocabulary.controls.get("pad", -1) - segment.start}
    banned = sorted(i - segment.start for i in {opening, *structure} if segment.start <= i < segment.end)
    with_picture = [i for i in banned if i != opening - segment.start]
    limit = sampling.max_tokens or 1
    penalty = 1.0 if sampling.repetition_penalty is None else float(sampling.repetition_penalty)
    params = params_of_rows(sampling, list(range(len(rows))))
    states = [_Row() for _ in rows]
    stream = tokenizer.stream() if on_text is not None else None
    seen = np.full((len(rows), limit), -1, np.int64)
    hidden = engine.start(rows, max(map(len, rows)) + limit)
    for k in range(limit):
        if cancel is not None and cancel():
            for state in states:
                state.finish = state.finish or "cancelled"
            break
        logits = engine.logits("text", hidden, 1.0)
        if on_logits is not None:
            on_logits(logits)
        with tracer.span("sample.text", num_bytes=logits.nbytes):
            if penalty != 1.0:
                logits = repetition_penalty(logits, seen, penalty)
            drawable = pictures.get(tuple(states[0].ids))
            tokens = sample(logits, params.at_step(k), banned=banned if drawable is None else with_picture)
        if tokens.min() < 0:
            raise EngineError(f"head_text: no token can be drawn at step {k}; the logits are not finite")
        if drawable is not None and tokens[0] == opening - segment.start:
            return drawable
        seen[:, k] = tokens
        for row, (state, token) in enumerate(zip(states, tokens.tolist(), strict=True)):
            if state.finish is None and token in ends:
                state.finish = "end"
            elif state.finish is None:
                state.ids.append(token + segment.start)
                if row == 0 and stream is not None and on_text is not None:
                    _emit(stream.push(token + segment.start), on_text)
        if all(state.finish for state in states):
            break
        if k + 1 < limit:
            hidden = engine.step(tokens[:, None] + segment.start, "text")
    if stream is not None and on_text is not None:
        _emit(stream.finish(), on_text)
    return [Answer(tokenizer.decode(s.ids), tuple(s.ids), s.finish or "length") for s in states]


def _emit(text: str, on_text: OnText) -> None:
    if text:
        on_text(text)
