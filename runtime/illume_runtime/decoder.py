"""The token engine: prefill, steps and heads over one cache that is written in place.

Shapes: R rows, T new tokens, D width. A row is one sequence; guidance doubles the rows. Slot j of a row holds position
j, so rows of different lengths share a batch: what a padded prefill leaves behind a row's end is overwritten before any
token may see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_runtime.cache import Cache, slots_for, static_slots
from illume_runtime.drawing import draw_codes
from illume_runtime.errors import InvalidBundleError
from illume_runtime.prefixes import KeptPrompt, KeptPrompts, shared_beginnings, unique_rows
from illume_runtime.residency import LANGUAGE
from illume_runtime.results import Cancel, OnProgress
from illume_runtime.sampling import ImageSampling, TextSampling
from illume_runtime.schedule import Codes
from illume_runtime.session import BoundRun
from illume_runtime.stages import Stages
from illume_runtime.token_embedding import TokenEmbedding
from illume_runtime.token_engine import Embeds, OnLevel0, OnLogits, TokenRequest
from illume_runtime.words import HostWords

TOKEN_BLOCK: Final = 8  # prefills are padded to multiples of this, so that few shapes are bound
MIN_SHARED: Final = 32  # a common beginning shorter than this is cheaper to compute twice


class TokenEngine:
    """Runs `decoder` and the heads for one batch at a time; the memory of the largest batch so far is kept."""

    max_rows: int | None = None

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._model = stages.bundle.model
        self._decoder = stages.bundle.stage("decoder")
        self._embedding = TokenEmbedding(stages.bundle)
        self._main = Cache(stages)
        self._scratch = Cache(stages)
        self._kept = KeptPrompts()
        self._heads: dict[tuple[str, int], _Head] = {}
        self._slots = 0
        self._lengths = np.zeros(0, np.int64)
        self._static_slots = static_slots(stages.bundle)
        stages.held_by(LANGUAGE, self.close)

    def close(self) -> None:
        """Give the memory of the caches, kept prompts and heads back."""
        self._main, self._scratch, self._heads = Cache(self._stages), Cache(self._stages), {}
        self._kept = KeptPrompts()

    def embed(self, ids: Sequence[int] | NDArray[np.int64]) -> Embeds:
        """Embeddings [T, D] of ids [T]."""
        return self._embedding.rows(ids)

    def codes(
        self,
        requests: Sequence[TokenRequest],
        sampling: ImageSampling,
        *,
        code_color: NDArray[np.generic] | None = None,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
        on_level0: OnLevel0 | None = None,
    ) -> list[Codes]:
        """Codes of every request; Cancelled comes within one step."""
        return draw_codes(
            self,
            requests,
            sampling,
            tracer=self._stages.tracer,
            code_color=code_color,
            on_progress=on_progress,
            cancel=cancel,
            on_level0=on_level0,
        )

    def words(
        self,
        rows: Sequence[Embeds],
        sampling: TextSampling,
        *,
        banned: Sequence[int],
        opening: int | None,
        first: int = 0,
        on_logits: OnLogits | None = None,
    ) -> HostWords:
        """The tokens of answers, each computed when it is asked for."""
        return HostWords(
            self,
            self._stages.bundle.vocabulary.segment("text"),
            rows,
            sampling,
            banned=banned,
            opening=opening,
            first=first,
            on_logits=on_logits,
            tracer=self._stages.tracer,
        )

    def start(self, rows: Sequence[Embeds], capacity: int, *, constant: Sequence[bool] | None = None) -> Embeds:
        """Prefills sequences [T_r, D] for up to `capacity` positions each; the last hidden state [R, D] of each.

        Equal rows are computed once, and so is a long common beginning of different rows. Rows that are `constant` are
        computed once for all calls, and what other rows have in common with kept ones from their start is copied.
        """
        self._slots = self._static_slots or slots_for(capacity)
        unique, of_row = unique_rows(rows)
        kept = constant is not None and any(constant)
        known = self._known(
            {i: unique[i] for i, is_constant in zip(of_row, constant or (), strict=False) if is_constant}
        )
        rest = [row for i, row in enumerate(unique) if i not in known]
        shared = self._shared_beginnings(rest)
        beginnings, of_rest = shared or (rest, list(range(len(rest))))
        fresh = iter(of_rest)
        sources = [known[i] if i in known else next(fresh) for i in range(len(unique))]
        self._lengths = np.array([len(row) for row in rows], np.int64)
        hidden = self._prefill(beginnings, [sources[i] for i in of_row], kept)
        if shared is None:
            return hidden
        for r, i in enumerate(of_row):  # kept rows take their last token again, so that every row appends some
            source = sources[i]
            self._lengths[r] = len(beginnings[source]) if isinstance(source, int) else len(rows[r]) - 1
        return self._append([row[length:] for row, length in zip(rows, self._lengths, strict=True)])

    def step(self, tokens: NDArray[np.int64], segment: str, *, counts: NDArray[np.int64] | None = None) -> Embeds:
        """Appends tokens [R, T] to the first R rows; the hidden state [R, D] of each last one, until the next call.

        With `counts` [R] only so many of a row's tokens are its own; what the rest leaves behind is overwritten before
        any token may see it.
        """
        num_rows, num_new = tokens.shape
        bound = self._main.bound(num_rows, self._slots, num_new)
        lengths = self._lengths[:num_rows]
        work = bound.work.get(segment)
        if work is None:
            work = bound.work[segment] = self._stages.work(
                f"decode.{segment}", self._decoder, num_rows, tokens=num_new, more_bytes=bound.cache_bytes
            )
        with self._stages.tracer.span_of(work):
            bound.embeds[:] = self._embedding.rows(tokens)
            np.add(lengths[:, None], bound.offsets, out=bound.positions)
            if counts is not None:  # the last slot is nobody's own: the last code of a picture is never appended
                np.minimum(bound.positions, self._slots - 1, out=bound.positions)
            bound.run.run()
        lengths += num_new if counts is None else counts
        last: Embeds = bound.hidden[:, -1] if counts is None else bound.hidden[np.arange(num_rows), counts - 1]
        return last

    def logits(self, segment: str, hidden: Embeds, guidance: float) -> NDArray[np.float32]:
        """Logits [B, n] of a segment, valid until the next call.

        `hidden` is [B, D], with guidance [2 B, D], the conditional side first.
        """
        guided = guidance != 1.0
        batch = len(hidden) // 2 if guided else len(hidden)
        head = self._heads.get((segment, batch))
        if head is None:
            head = self._heads[segment, batch] = _Head(self._stages, segment, batch)
        with self._stages.tracer.span_of(head.work):
            head.hidden[:] = hidden[:batch]
            head.hidden_uncond[:] = hidden[batch:] if guided else hidden
            head.guidance[:] = guidance
            head.run.run()
        return head.logits

    def _shared_beginnings(self, rows: list[Embeds]) -> tuple[list[Embeds], list[int]] | None:
        """Beginnings and which one each row has; None where sharing saves nothing or does not fit."""
        shared = shared_beginnings(rows, MIN_SHARED)
        if shared is None:
            return None
        beginnings, of_row = shared
        longest = max(len(row) - len(beginnings[i]) for row, i in zip(rows, of_row, strict=True))
        return shared if max(map(len, beginnings)) + _padded(longest) <= self._slots else None

    def _known(self, constant: Mapping[int, Embeds]) -> dict[int, KeptPrompt]:
        """The kept prompts that are these rows; those that are new are computed together."""
        found = {i: self._kept.find(row) for i, row in constant.items()}
        new = [i for i, prompt in found.items() if prompt is None]
        if new:
            rows = [constant[i] for i in new]
            slots = self._static_slots or _padded(max(map(len, rows)))
            hidden = _run(self._scratch, slots, rows, np.zeros(len(rows), np.int64))
            arrays = self._scratch.views(len(rows), slots)
            for r, (i, row) in enumerate(zip(new, rows, strict=True)):
                caches = {name: array[r, :, : len(row)].copy() for name, array in arrays.items()}
                prompt = found[i] = KeptPrompt(row.copy(), hidden[r].copy(), caches)
                self._kept.keep(prompt)
        return {i: prompt for i, prompt in found.items() if prompt is not None}

    def _prefill(self, beginnings: list[Embeds], sources: Sequence[int | KeptPrompt], kept: bool) -> Embeds:
        """Fills the rows of the main cache from beginnings and kept prompts; the hidden state [R, D] of each source.

        With `kept` the beginnings themselves begin with what they have in common with kept prompts.
        """
        fresh = [source for source in sources if isinstance(source, int)]
        if not kept and len(fresh) == len(beginnings) == len(sources):
            return _run(self._main, self._slots, beginnings, np.zeros(len(beginnings), np.int64))[fresh]
        target = self._main.views(len(sources), self._slots)
        states = np.empty((len(sources), self._model.hidden_size), np.float32)
        if beginnings:
            copied = [self._kept.beginning(row) if kept else (None, 0) for row in beginnings]
            starts = np.array([length for _, length in copied], np.int64)
            tails = [row[length:] for row, length in zip(beginnings, starts, strict=True)]
            slots = self._static_slots or _padded(int(starts.max()) + _padded(max(map(len, tails))))
            arrays = self._scratch.views(len(beginnings), slots)
            for r, (prompt, length) in enumerate(copied):
                for name, cache in (prompt.caches if prompt is not None else {}).items():
                    arrays[name][r, :, :length] = cache[:, :length]
            hidden = _run(self._scratch, slots, tails, starts)
            longest = max(map(len, beginnings))
            rows = [r for r, source in enumerate(sources) if isinstance(source, int)]
            for name, array in target.items():
                array[rows, :, :longest] = arrays[name][fresh, :, :longest]
            states[rows] = hidden[fresh]
        for r, source in enumerate(sources):
            if not isinstance(source, int):
                for name, cache in source.caches.items():
                    target[name][r, :, : cache.shape[1]] = cache
                states[r] = source.hidden
        return states

    def _append(self, rows: list[Embeds]) -> Embeds:
        hidden = _run(self._main, self._slots, rows, self._lengths)
        self._lengths += [len(row) for row in rows]
        return hidden


class _Head:
    """A head bound at one batch size."""

    __slots__ = ("guidance", "hidden", "hidden_uncond", "logits", "run", "work")

    def __init__(self, stages: Stages, segment: str, batch: int) -> None:
        width = stages.bundle.model.hidden_size
        self.hidden = np.zeros((batch, width), np.float32)
        self.hidden_uncond = np.zeros((batch, width), np.float32)
        self.guidance = np.ones(batch, np.float32)
        self.logits = np.zeros((batch, stages.bundle.vocabulary.segment(segment).size), np.float32)
        spec = stages.bundle.stage(f"head_{segment}")
        self.work = stages.work(f"head.{segment}", spec, batch, tokens=1)
        self.run: BoundRun = stages[spec.name].bind(
            {"hidden": self.hidden, "hidden_uncond": self.hidden_uncond, "guidance": self.guidance},
            {"logits": self.logits},
        )


def _run(cache: Cache, slots: int, rows: Sequence[Embeds], starts: NDArray[np.int64]) -> Embeds:
    """Appends sequences [T_r, D] at positions `starts` [R]; the hidden state [R, D] of each one's last token."""
    lengths = np.array([len(row) for row in rows], np.int64)
    if lengths.min() < 1:
        raise InvalidBundleError("prompts: a prompt is empty; expected at least one token")
    new = min(_padded(int(lengths.max())), slots - int(starts.max()))
    bound = cache.bound(len(rows), slots, new)
    with cache.span("prefill", int(lengths.sum()), bound.cache_bytes):
        bound.embeds[:] = 0.0
        for target, row in zip(bound.embeds, rows, strict=True):
            target[: len(row)] = row
        np.add(starts[:, None], bound.offsets, out=bound.positions)
        bound.run.run()
    last: Embeds = bound.hidden[np.arange(len(rows)), lengths - 1]
    return last


def _padded(length: int) -> int:
    return -(-length // TOKEN_BLOCK) * TOKEN_BLOCK
