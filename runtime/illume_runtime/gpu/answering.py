"""Answers in words, chosen on the device: the host reads them, and does not choose."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from illume_kernels.rows import rows_from_params
from illume_runtime.device.protocol import Event
from illume_runtime.gpu.decoding import Decoding
from illume_runtime.gpu.sampled_steps import Shape, StepKind, sampled_steps
from illume_runtime.sampling import TextSampling, params_of_rows
from illume_runtime.token_engine import Embeds, OnLogits

AHEAD = 2  # steps under way behind the one that is read, so that the device need not wait for the host
MAY_NOT_OPEN, MAY_OPEN = range(2)  # places of the bans


class WordLoop:
    """As `Words`. Steps go ahead of what the host has read, but for those that hang on it: whether a picture opens."""

    def __init__(
        self,
        decoding: Decoding,
        rows: Sequence[Embeds],
        sampling: TextSampling,
        *,
        banned: Sequence[int],
        opening: int | None,
        first: int,
        on_logits: OnLogits | None,
    ) -> None:
        self._decoding, self._on_logits = decoding, on_logits
        self._segment = decoding.stages.bundle.vocabulary.segment("text")
        self._limit = sampling.max_tokens or 1
        self._events: list[Event] = []  # behind the steps that are under way, the first of them `_read`
        self._read = 0
        decoding.start(rows, max(map(len, rows)) + self._limit)
        never = tuple(banned)
        always = never if opening is None else tuple(sorted({*banned, opening}))
        shape = Shape(
            (self._segment,),
            len(rows),
            1,
            is_apart=False,
            ring_slots=AHEAD + 1,
            is_greedy=sampling.temperature == 0,
            bans=(always, never),
        )
        self._steps = sampled_steps(decoding, shape)
        penalty = 1.0 if sampling.repetition_penalty is None else float(sampling.repetition_penalty)
        params = params_of_rows(sampling, list(range(first, first + len(rows))))
        self._steps.begin([rows_from_params(params, penalty=penalty)], 1.0)

    def tokens(self, k: int, *, may_open: bool, may_open_later: bool) -> NDArray[np.int64]:
        """As in `Words`; the host waits for this step alone."""
        hangs = may_open_later or self._on_logits is not None
        last = k + 1 if hangs else min(k + 1 + AHEAD, self._limit)
        while self._read + len(self._events) < last:
            under_way = self._read + len(self._events)
            self._enqueue(under_way, MAY_OPEN if may_open and under_way == k else MAY_NOT_OPEN)
        self._events.pop(0).synchronize()
        self._read += 1
        if self._on_logits is not None:
            logits = self._decoding.accelerator.downloaded(self._steps.heads[0].logits)
            self._on_logits(logits.astype(np.float32, copy=False))
        tokens: NDArray[np.int64] = self._steps.chosen[k % len(self._steps.chosen)].astype(np.int64)
        return tokens

    def close(self) -> None:
        """What is under way goes on in memory that `decoding` keeps."""

    def _enqueue(self, k: int, ban: int) -> None:
        accelerator, tracer = self._decoding.accelerator, self._decoding.stages.tracer
        kind = StepKind(before=-1 if k == 0 else 0, forced=(), level=0, num_next=1, ban=ban)
        work = partial(self._steps.work, f"step.{self._segment.name}", self._segment, 1)
        with accelerator.track.span(tracer, work):
            self._steps.run(kind)
        self._events.append(accelerator.stream.record())
