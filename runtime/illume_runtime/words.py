"""The tokens of answers, chosen by the host step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from illume_kernels.oracle import repetition_penalty, sample
from illume_runtime.manifest import Segment
from illume_runtime.sampling import TextSampling, params_of_rows
from illume_runtime.token_engine import Embeds, OnLogits, StepEngine
from illume_runtime.trace import Tracer


class HostWords:
    """As `Words`: each step appends the tokens of the one before, and samples the logits of the text segment."""

    def __init__(
        self,
        engine: StepEngine,
        segment: Segment,
        rows: Sequence[Embeds],
        sampling: TextSampling,
        *,
        banned: Sequence[int],
        opening: int | None,
        first: int,
        on_logits: OnLogits | None,
        tracer: Tracer,
    ) -> None:
        limit = sampling.max_tokens or 1
        self._engine, self._segment, self._tracer, self._on_logits = engine, segment, tracer, on_logits
        self._banned, self._with_opening = list(banned), [*banned] if opening is None else sorted({*banned, opening})
        self._penalty = 1.0 if sampling.repetition_penalty is None else float(sampling.repetition_penalty)
        self._params = params_of_rows(sampling, list(range(first, first + len(rows))))
        self._chosen = np.full((len(rows), limit), -1, np.int64)
        self._hidden = engine.start(rows, max(map(len, rows)) + limit)

    def tokens(self, k: int, *, may_open: bool, may_open_later: bool) -> NDArray[np.int64]:
        """As in `Words`."""
        if k > 0:
            self._hidden = self._engine.step(self._chosen[:, k - 1 : k] + self._segment.start, self._segment.name)
        logits = self._engine.logits(self._segment.name, self._hidden, 1.0)
        if self._on_logits is not None:
            self._on_logits(logits)
        with self._tracer.span(f"sample.{self._segment.name}", num_bytes=logits.nbytes):
            if self._penalty != 1.0:
                logits = repetition_penalty(logits, self._chosen, self._penalty)
            banned = self._banned if may_open else self._with_opening
            tokens = self._chosen[:, k] = sample(logits, self._params.at_step(k), banned=banned)
        return tokens

    def close(self) -> None:
        """As in `Words`."""
