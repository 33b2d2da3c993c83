"""The visual tokens of a batch of pictures: their compiled schedules, sampled side by side.

Pictures of different sizes share the steps: each row follows its own schedule, rows that append fewer tokens than
others are padded, and the batch becomes shorter as the smaller pictures are finished (the largest come first).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from illume_kernels.guidance import guided
from illume_kernels.oracle import repetition_penalty, sample
from illume_kernels.params import SampleParams
from illume_runtime.errors import Cancelled, EngineError
from illume_runtime.results import Cancel, OnProgress, Progress
from illume_runtime.sampling import ImageSampling, filtered, params_of_rows
from illume_runtime.schedule import Codes, Schedule
from illume_runtime.token_engine import Embeds, OnLevel0, StepEngine, TokenRequest
from illume_runtime.trace import Tracer, Work

PREVIEW_SCALE = 8  # pixels of the preview per pixel of a code's cell side, at most


@dataclass(frozen=True, slots=True)
class _Group:
    """Pictures that choose from one segment now: their places in the batch, and the rows of both sides."""

    level: int
    segment: str
    places: NDArray[np.int64]
    rows: NDArray[np.int64]
    params: SampleParams
    again: SampleParams | None  # of double sampling
    work: Work


def draw_codes(
    engine: StepEngine,
    requests: Sequence[TokenRequest],
    sampling: ImageSampling,
    *,
    tracer: Tracer,
    code_color: NDArray[np.generic] | None,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
    on_level0: OnLevel0 | None = None,
) -> list[Codes]:
    """Codes of every request, drawn as one batch; `sampling` has no None left. Raises Cancelled within one step.

    `on_level0` gets the place of a request and its codes [Y, X] of the first level as soon as they are complete.
    """
    guidance = 1.0 if sampling.guidance is None else float(sampling.guidance)
    num_sides = 1 if guidance == 1.0 else 2
    order = sorted(range(len(requests)), key=lambda i: -len(requests[i].schedule.steps))
    batch = [requests[i] for i in order]
    schedules = [request.schedule for request in batch]
    total, first = len(schedules[0].steps), order.index(0)
    levels = _levels(schedules, total)
    chosen = np.zeros((len(batch), total), np.int64)
    changes = {0, *(np.flatnonzero((levels[:, 1:] != levels[:, :-1]).any(axis=0)) + 1).tolist()}
    live: list[Schedule] = []
    groups: list[_Group] = []
    hidden: Embeds | None = None
    for k in range(total):
        if cancel is not None and cancel():
            raise Cancelled(f"cancelled after {k} of {total} tokens")
        if k in changes:
            live = [schedule for schedule in schedules if k < len(schedule.steps)]
            groups = _groups(batch, levels[:, k], sampling, num_sides)
        if hidden is None:
            hidden = _started(engine, batch, num_sides)
        else:
            tokens, counts = _appended(live, chosen[:, k - 1], k)
            segment = live[0].steps[k].segment
            hidden = engine.step(
                tokens.repeat(num_sides, axis=0), segment, counts=None if counts is None else counts.repeat(num_sides)
            )
        for group in groups:
            logits = _logits(engine, group, hidden, guidance, levels, chosen[:, :k], sampling.repetition_penalty)
            with tracer.span_of(group.work):
                drawn = _drawn(logits, group, k)
            if drawn.min() < 0:
                raise EngineError(f"head_{group.segment}: no token can be drawn at step {k}; the logits are not finite")
            chosen[group.places, k] = drawn
        if on_level0 is not None:
            for place, schedule in enumerate(live):
                if ends_level0(schedule, k):
                    on_level0(order[place], chosen[place, : k + 1].reshape(schedule.grids[0]))
        if on_progress is not None:
            preview = preview_of(schedules[first], chosen[first], k, code_color)
            on_progress(Progress("tokens", k + 1, total, preview))
    codes = {i: s.codes_of_samples(row[: len(s.steps)]) for i, s, row in zip(order, schedules, chosen, strict=True)}
    return [codes[i] for i in range(len(requests))]


def _levels(schedules: Sequence[Schedule], total: int) -> NDArray[np.int64]:
    """The level [B, total] that each picture chooses from at each step; -1 behind its end."""
    levels = np.full((len(schedules), total), -1, np.int64)
    for row, schedule in zip(levels, schedules, strict=True):
        row[: len(schedule.steps)] = [step.level for step in schedule.steps]
    return levels


def _groups(
    batch: Sequence[TokenRequest], levels: NDArray[np.int64], sampling: ImageSampling, num_sides: int
) -> list[_Group]:
    groups = []
    for level in np.unique(levels[levels >= 0]).tolist():
        places = np.flatnonzero(levels == level)
        rows = np.concatenate([num_sides * places + side for side in range(num_sides)])
        numbers = [batch[place].request for place in places.tolist()]
        params = params_of_rows(sampling.of_level(level), numbers)
        again = params_of_rows(sampling.of_level(0), numbers) if sampling.double_sampling else None
        segment = batch[int(places[0])].schedule.segments[level]
        num_bytes = len(places) * segment.size * np.dtype(np.float32).itemsize
        work = Work(f"sample.{segment.name}", "stage", num_bytes, 0, {})
        groups.append(_Group(level, segment.name, places, rows, params, again, work))
    return groups


def _started(engine: StepEngine, batch: Sequence[TokenRequest], num_sides: int) -> Embeds:
    """The states of all rows behind their prompts; both sides of a picture are neighbours."""
    rows: list[Embeds] = []
    constant: list[bool] = []
    for request in batch:
        opening = engine.embed(request.schedule.steps[0].tokens)
        sides = (request.conditional, request.unconditional)[:num_sides]
        rows += [np.concatenate((side, opening)) for side in sides]
        constant += (False, request.constant)[:num_sides]
    new = [request.schedule.num_tokens for request in batch for _ in range(num_sides)]
    capacity = max(len(row) + count for row, count in zip(rows, new, strict=True))
    return engine.start(rows, capacity, constant=constant)


def _appended(
    live: Sequence[Schedule], previous: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """What step k appends: ids [B, T], and how many of them each row really has; None where all have T."""
    first, before = live[0].steps[k].tokens, live[0].steps[k - 1].level
    if all(schedule is live[0] for schedule in live):
        tokens = np.empty((len(live), 1 + len(first)), np.int64)
        tokens[:, 0] = previous[: len(live)] + live[0].segments[before].start
        tokens[:, 1:] = first
        return tokens, None
    counts = np.array([1 + len(schedule.steps[k].tokens) for schedule in live])
    tokens = np.zeros((len(live), int(counts.max())), np.int64)
    for row, schedule, code in zip(tokens, live, previous.tolist(), strict=False):
        forced = schedule.steps[k].tokens
        row[0] = code + schedule.segments[schedule.steps[k - 1].level].start
        row[1 : 1 + len(forced)] = forced
    return tokens, None if counts.min() == counts.max() else counts


def _logits(
    engine: StepEngine,
    group: _Group,
    hidden: Embeds,
    guidance: float,
    levels: NDArray[np.int64],
    chosen: NDArray[np.int64],
    penalty: float | None,
) -> NDArray[np.float32]:
    """Logits [B, n] of a group. A repetition penalty acts on the conditional side alone, before guidance."""
    states = hidden[group.rows]
    if penalty in (None, 1.0):
        return engine.logits(group.segment, states, guidance)
    batch, num_drawn = len(group.places), chosen.shape[1]
    seen = np.where(levels[group.places, :num_drawn] == group.level, chosen[group.places], -1)
    cond = repetition_penalty(engine.logits(group.segment, states[:batch], 1.0), seen, float(penalty or 1.0))
    if guidance == 1.0:
        return cond
    uncond = engine.logits(group.segment, states[batch:], 1.0)
    return guided(cond, uncond, guidance)


def _drawn(logits: NDArray[np.float32], group: _Group, k: int) -> NDArray[np.int64]:
    """Tokens [B] of step k."""
    if group.again is None:
        return sample(logits, group.params.at_step(k))
    return sample(filtered(logits, group.params), group.again.at_step(k))


def ends_level0(schedule: Schedule, k: int) -> bool:
    """Whether step k chooses the last code of the first level."""
    steps = schedule.steps
    return steps[k].level == 0 and (k + 1 == len(steps) or steps[k + 1].level != 0)


def preview_of(
    schedule: Schedule, chosen: NDArray[np.int64], k: int, code_color: NDArray[np.generic] | None
) -> Image.Image | None:
    """At the end of a row the first level's codes so far as the mean colours of their cells; grey where none is yet."""
    steps = schedule.steps
    if code_color is None or k >= len(steps) or (k + 1 < len(steps) and steps[k + 1].row == steps[k].row):
        return None
    rows, columns = schedule.grids[0]
    cells = np.full((rows, columns, 3), 128, np.uint8)
    for step, code in zip(steps[: k + 1], chosen.tolist(), strict=False):
        if step.level == 0:
            cells[step.row, step.column] = code_color[code]
    size = (columns * PREVIEW_SCALE, rows * PREVIEW_SCALE)
    return Image.fromarray(cells).resize(size, Image.Resampling.BILINEAR)
