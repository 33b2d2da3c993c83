"""The token engine on a GPU, for what the host decides token by token: answers in words."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from illume_runtime.decoder import Embeds
from illume_runtime.gpu.accelerator import Accelerator
from illume_runtime.gpu.decoding import Decoding
from illume_runtime.residency import LANGUAGE
from illume_runtime.stages import Stages


class GpuTokenEngine:
    """As `TokenEngine`; states and logits come to the host, keys and values do not."""

    is_on_gpu = True

    def __init__(self, stages: Stages, accelerator: Accelerator) -> None:
        self.decoding = Decoding(stages, accelerator)
        self._accelerator = accelerator
        stages.held_by(LANGUAGE, self.close)

    def close(self) -> None:
        """Give the memory back."""
        self.decoding.close()

    def embed(self, ids: Sequence[int] | NDArray[np.int64]) -> Embeds:
        """Embeddings [T, D] of ids [T]."""
        return self.decoding.embed(ids)

    def start(self, rows: Sequence[Embeds], capacity: int, *, constant: Sequence[bool] | None = None) -> Embeds:
        """Prefills sequences [T_r, D] for up to `capacity` positions each; the last hidden state [R, D] of each."""
        self.decoding.start(rows, capacity)
        return self._states(len(rows))

    def step(self, tokens: NDArray[np.int64], segment: str, *, counts: NDArray[np.int64] | None = None) -> Embeds:
        """Appends tokens [R, T]; the hidden state [R, D] of each row's last one."""
        num_rows, new = tokens.shape
        with self._span(f"decode.{segment}", "decoder", num_rows, tokens=new):
            self.decoding.append(tokens, np.full(num_rows, new) if counts is None else counts)
            return self._states(num_rows)

    def logits(self, segment: str, hidden: Embeds, guidance: float) -> NDArray[np.float32]:
        """Logits [B, n] of a segment, of states [B, D], with guidance [2 B, D], the conditional side first."""
        is_guided = guidance != 1.0
        batch = len(hidden) // 2 if is_guided else len(hidden)
        decoding = self.decoding
        head = decoding.head(segment, batch, is_guided)
        with self._span(f"head.{segment}", f"head_{segment}", batch):
            self._accelerator.upload(decoding.states.rows(0, len(hidden)), np.ascontiguousarray(hidden, np.float32))
            self._accelerator.upload(head.guidance, np.full(batch, guidance, np.float32))
            head.program.run()
            logits: NDArray[np.float32] = self._accelerator.downloaded(head.logits).astype(np.float32, copy=False)
            return logits

    def _span(self, name: str, stage: str, rows: int, *, tokens: int = 0) -> AbstractContextManager[None]:
        """One of the host, which waits for the result, and one of the device."""
        stages = self.decoding.stages
        return self._accelerator.track.span(
            stages.tracer, lambda: stages.work(name, stages.bundle.stage(stage), rows, tokens=tokens)
        )

    def _states(self, num_rows: int) -> Embeds:
        states: Embeds = self._accelerator.downloaded(self.decoding.states.rows(0, num_rows)).astype(
            np.float32, copy=False
        )
        return states
