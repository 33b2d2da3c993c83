"""The visual tokens of a batch of pictures: the compiled schedule, sampled row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from illume_kernels.guidance import guided
from illume_kernels.oracle import repetition_penalty, sample
from illume_runtime.decoder import Embeds, TokenEngine
from illume_runtime.errors import Cancelled, EngineError
from illume_runtime.results import Cancel, OnProgress, Progress
from illume_runtime.sampling import ImageSampling, params_of_rows
from illume_runtime.schedule import Codes, Schedule
from illume_runtime.trace import Tracer

PREVIEW_SCALE = 8  # pixels of the preview per pixel of a code's cell side, at most


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One picture: the prompt's embeddings [T, D] with and without the user's text, and its number for the seed."""

    conditional: Embeds
    unconditional: Embeds
    request: int


def draw_codes(
    engine: TokenEngine,
    schedule: Schedule,
    requests: Sequence[TokenRequest],
    sampling: ImageSampling,
    *,
    tracer: Tracer,
    code_color: NDArray[np.generic] | None,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
) -> list[Codes]:
    """Codes of every request, drawn as one batch; `sampling` has no None left. Raises Cancelled within one step."""
    guidance = 1.0 if sampling.guidance is None else float(sampling.guidance)
    sides = [[r.conditional for r in requests]]
    if guidance != 1.0:
        sides.append([r.unconditional for r in requests])
    opening = engine.embed(schedule.steps[0].tokens)
    rows = [np.concatenate((row, opening)) for side in sides for row in side]
    numbers = [r.request for r in requests]
    params = [params_of_rows(sampling.of_level(level), numbers) for level in range(len(schedule.grids))]
    chosen = np.zeros((len(requests), len(schedule.steps)), np.int64)
    hidden: Embeds | None = None
    tokens = np.zeros(len(requests), np.int64)
    for k, step in enumerate(schedule.steps):
        if cancel is not None and cancel():
            raise Cancelled(f"cancelled after {k} of {len(schedule.steps)} tokens")
        if hidden is None:
            hidden = engine.start(rows, max(map(len, rows)) + schedule.num_tokens)
        else:
            start = schedule.segments[schedule.steps[k - 1].level].start
            appended = np.empty((len(sides), len(requests), 1 + len(step.tokens)), np.int64)
            appended[..., 0] = tokens + start
            appended[..., 1:] = step.tokens
            hidden = engine.step(appended.reshape(len(rows), -1), step.segment)
        logits = _logits(engine, schedule, k, hidden, guidance, chosen, sampling.repetition_penalty)
        with tracer.span(f"sample.{step.segment}", num_bytes=logits.nbytes):
            tokens = sample(logits, params[step.level].at_step(k))
            if tokens.min() < 0:
                raise EngineError(f"head_{step.segment}: no token can be drawn at step {k}; the logits are not finite")
            chosen[:, k] = tokens
        if on_progress is not None:
            row_ends = k + 1 == len(schedule.steps) or schedule.steps[k + 1].row != step.row
            preview = _preview(schedule, chosen[0], k + 1, code_color) if row_ends else None
            on_progress(Progress("tokens", k + 1, len(schedule.steps), preview))
    return [schedule.codes_of_samples(row) for row in chosen]


def _logits(
    engine: TokenEngine,
    schedule: Schedule,
    k: int,
    hidden: Embeds,
    guidance: float,
    chosen: NDArray[np.int64],
    penalty: float | None,
) -> NDArray[np.float32]:
    """Logits [B, n] of step k. A repetition penalty acts on the conditional side alone, before guidance."""
    step = schedule.steps[k]
    if penalty in (None, 1.0):
        return engine.logits(step.segment, hidden, guidance)
    batch = len(chosen)
    same = np.array([before.level == step.level for before in schedule.steps[:k]], np.bool_)
    seen = np.where(same, chosen[:, :k], -1)
    cond = repetition_penalty(engine.logits(step.segment, hidden[:batch], 1.0), seen, float(penalty or 1.0))
    if guidance == 1.0:
        return cond
    uncond = engine.logits(step.segment, hidden[batch:], 1.0)
    return guided(cond, uncond, guidance)


def _preview(
    schedule: Schedule, chosen: NDArray[np.int64], done: int, code_color: NDArray[np.generic] | None
) -> Image.Image | None:
    """The first level's codes so far as the mean colours of their cells; grey where nothing is drawn yet."""
    if code_color is None:
        return None
    rows, columns = schedule.grids[0]
    cells = np.full((rows, columns, 3), 128, np.uint8)
    for step, code in zip(schedule.steps[:done], chosen[:done].tolist(), strict=True):
        if step.level == 0:
            cells[step.row, step.column] = code_color[code]
    size = (columns * PREVIEW_SCALE, rows * PREVIEW_SCALE)
    return Image.fromarray(cells).resize(size, Image.Resampling.BILINEAR)
