"""The token engine on a GPU: pictures and answers are chosen there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from illume_runtime.gpu.accelerator import Accelerator
from illume_runtime.gpu.answering import WordLoop
from illume_runtime.gpu.decoding import Decoding
from illume_runtime.gpu.drawing import draw_codes_on_gpu
from illume_runtime.residency import LANGUAGE
from illume_runtime.results import Cancel, OnProgress
from illume_runtime.sampling import ImageSampling, TextSampling
from illume_runtime.schedule import Codes
from illume_runtime.stages import Stages
from illume_runtime.token_engine import Embeds, OnLevel0, OnLogits, TokenRequest


class GpuTokenEngine:
    """As `Engine`; nothing but tokens comes to the host."""

    def __init__(self, stages: Stages, accelerator: Accelerator) -> None:
        self.decoding = Decoding(stages, accelerator)
        stages.held_by(LANGUAGE, self.close)

    @property
    def max_rows(self) -> int | None:
        """Of the decoder's engine."""
        return self.decoding.decoder.max_rows

    def close(self) -> None:
        """Give the memory back."""
        self.decoding.close()

    def embed(self, ids: Sequence[int] | NDArray[np.int64]) -> Embeds:
        """Embeddings [T, D] of ids [T]."""
        return self.decoding.embed(ids)

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
        """Codes of every request; progress and `cancel` come once for each row of codes."""
        return draw_codes_on_gpu(self.decoding, requests, sampling, code_color, on_progress, cancel, on_level0)

    def words(
        self,
        rows: Sequence[Embeds],
        sampling: TextSampling,
        *,
        banned: Sequence[int],
        opening: int | None,
        first: int = 0,
        on_logits: OnLogits | None = None,
    ) -> WordLoop:
        """The tokens of answers, some steps of which are always under way."""
        return WordLoop(self.decoding, rows, sampling, banned=banned, opening=opening, first=first, on_logits=on_logits)
