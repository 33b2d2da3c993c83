"""The visual tokens of pictures of one size, drawn without the host.

The host replays the schedule's steps and reads what they chose once for each row of codes, while the next row is under
way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from illume_kernels.rows import rows_from_params
from illume_runtime.device.protocol import Event
from illume_runtime.drawing import ends_level0, preview_of
from illume_runtime.errors import Cancelled, EngineError, UsageError
from illume_runtime.gpu.decoding import Decoding
from illume_runtime.gpu.sampled_steps import SampledSteps, Shape, StepKind, sampled_steps
from illume_runtime.results import Cancel, OnProgress, Progress
from illume_runtime.sampling import ImageSampling, params_of_rows
from illume_runtime.schedule import Codes, Schedule
from illume_runtime.token_engine import OnLevel0, TokenRequest


def draw_codes_on_gpu(
    decoding: Decoding,
    requests: Sequence[TokenRequest],
    sampling: ImageSampling,
    code_color: NDArray[np.generic] | None,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
    on_level0: OnLevel0 | None,
) -> list[Codes]:
    """As `draw_codes`; pictures of one size are one batch. Progress and `cancel` come once for each row of codes."""
    if sampling.double_sampling:
        raise UsageError("double_sampling: is made for comparisons and runs on the CPU only; use --device cpu")
    num_sides = 1 if sampling.guidance in (None, 1.0) else 2
    most = decoding.decoder.max_rows
    if most is not None and most < num_sides:
        raise EngineError("decoder: its engine takes one row, guidance needs two; build it again, or use --guidance 1")
    largest = len(requests) if most is None else most // num_sides
    by_size: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        by_size.setdefault(request.schedule.name, []).append(i)
    codes: dict[int, Codes] = {}
    for places in by_size.values():
        for first in range(0, len(places), largest):
            part = places[first : first + largest]
            loop = TokenLoop(decoding, [requests[i] for i in part], sampling, num_sides)
            shown = code_color if 0 in part else None
            drawn = loop.run(part, shown, on_progress, cancel, on_level0)
            codes |= zip(part, drawn, strict=True)
    return [codes[i] for i in range(len(requests))]


class TokenLoop:
    """One batch of pictures of one size."""

    def __init__(
        self, decoding: Decoding, requests: Sequence[TokenRequest], sampling: ImageSampling, num_sides: int
    ) -> None:
        self._decoding, self._accelerator = decoding, decoding.accelerator
        self._requests, self._sampling = requests, sampling
        self._schedule: Schedule = requests[0].schedule
        self._batch, self._sides = len(requests), num_sides

    def run(
        self,
        places: Sequence[int],
        code_color: NDArray[np.generic] | None,
        on_progress: OnProgress | None,
        cancel: Cancel | None,
        on_level0: OnLevel0 | None,
    ) -> list[Codes]:
        """Codes of every picture. Raises Cancelled within one row of codes, EngineError where no token is legal."""
        steps, total = self._schedule.steps, len(self._schedule.steps)
        self._prefill()
        loop = self._prepared()
        chosen = loop.chosen
        under_way: list[tuple[int, int, Event]] = []  # first step and end of a row, and the event behind it
        first = 0
        for end in _row_ends(self._schedule):
            if cancel is not None and cancel():  # what is under way goes on in memory that `decoding` keeps
                raise Cancelled(f"cancelled after {first} of {total} tokens")
            segment = self._schedule.segments[steps[first].level]
            work = partial(loop.work, f"row.{segment.name}", segment, end - first)
            with self._accelerator.track.span(self._decoding.stages.tracer, work):
                for k in range(first, end):
                    loop.run(self._kind(k))
            under_way.append((first, end, self._accelerator.stream.record()))
            first = end
            if len(under_way) > 1:
                self._read(under_way.pop(0), chosen, places, code_color, on_progress, on_level0)
        self._read(under_way.pop(0), chosen, places, code_color, on_progress, on_level0)
        return [self._schedule.codes_of_samples(chosen[:, b]) for b in range(self._batch)]

    def _read(
        self,
        row: tuple[int, int, Event],
        chosen: NDArray[np.int32],
        places: Sequence[int],
        code_color: NDArray[np.generic] | None,
        on_progress: OnProgress | None,
        on_level0: OnLevel0 | None,
    ) -> None:
        first, end, event = row
        event.synchronize()
        if chosen[first:end].min() < 0:
            k = first + int(np.argmin(chosen[first:end].min(axis=1)))
            segment = self._schedule.steps[k].segment
            raise EngineError(f"head_{segment}: no token can be drawn at step {k}; the logits are not finite")
        if on_level0 is not None and ends_level0(self._schedule, end - 1):
            for b, place in enumerate(places):
                on_level0(place, chosen[:end, b].astype(np.int64).reshape(self._schedule.grids[0]))
        if on_progress is not None:
            preview = preview_of(self._schedule, chosen[:, 0].astype(np.int64), end - 1, code_color)
            on_progress(Progress("tokens", end, len(self._schedule.steps), preview))

    def _prefill(self) -> None:
        opening = self._decoding.embed(self._schedule.steps[0].tokens)
        sides = [[one.conditional for one in self._requests], [one.unconditional for one in self._requests]]
        rows = [np.concatenate((row, opening)) for side in sides[: self._sides] for row in side]
        self._decoding.start(rows, max(map(len, rows)) + self._schedule.num_tokens)

    def _prepared(self) -> SampledSteps:
        batch, schedule, sampling = self._batch, self._schedule, self._sampling
        penalty = 1.0 if sampling.repetition_penalty is None else float(sampling.repetition_penalty)
        guidance = 1.0 if sampling.guidance is None else float(sampling.guidance)
        # A penalty acts on the conditional side alone, so that the sampler combines both, not the head.
        is_apart = self._sides == 2 and penalty != 1.0
        of_levels = [sampling.of_level(level) for level in range(len(schedule.segments))]
        is_greedy = all(one.temperature == 0 for one in of_levels)
        shape = Shape(schedule.segments, batch, self._sides, is_apart, len(schedule.steps), is_greedy)
        steps = sampled_steps(self._decoding, shape)
        numbers = [request.request for request in self._requests]
        rows = [
            rows_from_params(
                params_of_rows(one, numbers),
                guidance=guidance if is_apart else 1.0,
                penalty=penalty,
                uncond_row=np.arange(batch, 2 * batch) if is_apart else -1,
            )
            for one in of_levels
        ]
        steps.begin(rows, 1.0 if is_apart else guidance)
        return steps

    def _kind(self, k: int) -> StepKind:
        steps = self._schedule.steps
        num_next = 1 + len(steps[k + 1].tokens) if k + 1 < len(steps) else 0
        before = steps[k - 1].level if k > 0 else -1
        return StepKind(before, steps[k].tokens if k > 0 else (), steps[k].level, num_next)


def _row_ends(schedule: Schedule) -> list[int]:
    """The steps behind the last one of each row of codes."""
    steps = schedule.steps
    return [
        k + 1
        for k in range(len(steps))
        if k + 1 == len(steps) or (steps[k + 1].level, steps[k + 1].row) != (steps[k].level, steps[k].row)
    ]
