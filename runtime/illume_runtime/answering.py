"""Answers in words: a batch of prompts, decoded until every one has ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from illume_runtime.errors import EngineError
from illume_runtime.manifest import Vocabulary
from illume_runtime.results import Answer, Cancel, FinishReason, OnText
from illume_runtime.sampling import TextSampling
from illume_runtime.schedule import Schedule
from illume_runtime.text import TextTokenizer
from illume_runtime.token_engine import Embeds, Engine, OnLogits


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
    structure: Collection[int],
    pictures: Mapping[tuple[int, ...], Schedule],
    on_text: OnText | None,
    cancel: Cancel | None,
    first: int = 0,
    on_logits: OnLogits | None = None,
) -> list[Answer] | Schedule:
    """One answer per row; a schedule if the (only) row begins a picture of that size instead of words.

    `sampling` has no None left; its draws depend on the answers' numbers, from `first` on. `on_text` gets the first
    row's text as it comes, `on_logits` the logits [B, n] of each step, which are valid until it returns. `structure`
    are the ids that only stand in pictures: they are never chosen. A picture begins with a tag of `pictures`, which may
    be empty, and `start_of_image`; where there are none, no row begins one.
    """
    segment = vocabulary.segment("text")
    opening = vocabulary.control("start_of_image")
    inside = range(segment.start, segment.end)
    banned = sorted(i - segment.start for i in {*structure} - {opening} if i in inside)
    ends = {vocabulary.control("end") - segment.start, vocabulary.controls.get("pad", -1) - segment.start}
    limit = sampling.max_tokens or 1
    states = [_Row() for _ in rows]
    stream = tokenizer.stream() if on_text is not None else None
    opens = opening - segment.start if opening in inside else None
    with closing(engine.words(rows, sampling, banned=banned, opening=opens, first=first, on_logits=on_logits)) as words:
        for k in range(limit):
            if cancel is not None and cancel():
                for state in states:
                    state.finish = state.finish or "cancelled"
                break
            said = tuple(states[0].ids)
            drawable = pictures.get(said)
            later = any(len(tag) > k and tag[: len(said)] == said for tag in pictures)
            tokens = words.tokens(k, may_open=drawable is not None, may_open_later=later)
            if tokens.min() < 0:
                raise EngineError(f"head_text: no token can be drawn at step {k}; the logits are not finite")
            if drawable is not None and tokens[0] == opens:
                return drawable
            for row, (state, token) in enumerate(zip(states, tokens.tolist(), strict=True)):
                if state.finish is None and token in ends:
                    state.finish = "end"
                elif state.finish is None:
                    state.ids.append(token + segment.start)
                    if row == 0 and stream is not None and on_text is not None:
                        _emit(stream.push(token + segment.start), on_text)
            if all(state.finish for state in states):
                break
    if stream is not None and on_text is not None:
        _emit(stream.finish(), on_text)
    return [Answer(tokenizer.decode(s.ids), tuple(s.ids), s.finish or "length") for s in states]


def _emit(text: str, on_text: OnText) -> None:
    if text:
        on_text(text)
