"""The visual tokens of pictures of one size, drawn without the host.

A step is one program: embeddings of the last token and of what is forced behind it, decoder, head of the segment,
sampler, and the token into a ring of pinned memory with the positions of the next step. There are few kinds of steps,
each captured once. The host replays the schedule and reads the ring once for each row of codes, while the next row is
already under way.

Shapes: B pictures, R rows (2 B where guided), T new tokens, n tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from illume_kernels.launch import Segment as LogitSegment
from illume_kernels.rows import rows_from_params
from illume_kernels.sample_plan import sample_plan
from illume_kernels.step_launch import advance_step, gather_embedding
from illume_runtime.device.array import DeviceArray
from illume_runtime.device.protocol import Event, PinnedMemory
from illume_runtime.drawing import OnLevel0, TokenRequest, ends_level0, preview_of
from illume_runtime.errors import Cancelled, EngineError, UsageError
from illume_runtime.gpu.decoding import Decoding, Head, Step
from illume_runtime.gpu.engine import GpuTokenEngine
from illume_runtime.gpu.program import Operation, Program
from illume_runtime.results import Cancel, OnProgress, Progress
from illume_runtime.sampling import ImageSampling, params_of_rows
from illume_runtime.schedule import Codes, Schedule
from illume_runtime.trace import Argument, Work


@dataclass(frozen=True, slots=True)
class StepKind:
    """Steps of one kind are one program: the level before (-1: none), what is forced, the level, what comes next."""

    before: int
    forced: tuple[int, ...]
    level: int
    num_next: int


def draw_codes_on_gpu(
    engine: GpuTokenEngine,
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
    most = engine.decoding.decoder.max_rows
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
            loop = TokenLoop(engine.decoding, [requests[i] for i in part], sampling, num_sides)
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
        self._guidance = 1.0 if sampling.guidance is None else float(sampling.guidance)
        self._penalty = 1.0 if sampling.repetition_penalty is None else float(sampling.repetition_penalty)
        self._programs: dict[StepKind, Program] = {}
        self._steps: dict[int, Step] = {}
        self._kept: list[Any] = []  # what only the programs' addresses point at

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
        ring = self._prepared(total)
        chosen = ring.array.view(np.int32).reshape(total, self._batch)
        under_way: list[tuple[int, int, Event]] = []  # first step and end of a row, and the event behind it
        first = 0
        try:
            for end in _row_ends(self._schedule):
                if cancel is not None and cancel():
                    raise Cancelled(f"cancelled after {first} of {total} tokens")
                work = partial(self._work, steps[first].segment, end - first)
                with self._accelerator.track.span(self._decoding.stages.tracer, work):
                    for k in range(first, end):
                        self._program(k).run()
                under_way.append((first, end, self._accelerator.stream.record()))
                first = end
                if len(under_way) > 1:
                    self._read(under_way.pop(0), chosen, places, code_color, on_progress, on_level0)
            self._read(under_way.pop(0), chosen, places, code_color, on_progress, on_level0)
        except BaseException:
            self._accelerator.stream.synchronize()  # nothing may write to memory that is given back
            raise
        return [self._schedule.codes_of_samples(chosen[:, b]) for b in range(self._batch)]

    def _work(self, segment: str, num_steps: int) -> Work:
        """What some steps read and compute; the cache is not counted."""
        stages = self._decoding.stages
        names = ("decoder", f"head_{segment}")
        each = [stages.work(name, stages.bundle.stage(name), self._batch * self._sides, tokens=1) for name in names]
        num_bytes, flops = sum(work.num_bytes for work in each), sum(work.flops for work in each)
        counted: dict[str, Argument] = {"tokens": num_steps * self._batch}
        return Work(f"row.{segment}", "stage", num_steps * num_bytes, num_steps * flops, counted)

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

    def _prepared(self, total: int) -> PinnedMemory:
        accelerator, batch, levels = self._accelerator, self._batch, range(len(self._schedule.segments))
        num_rows = batch * self._sides
        self._token = accelerator.array((batch,), np.int32)
        self._step = accelerator.array((batch,), np.uint32)
        self._count = accelerator.array((1,), np.uint32)
        self._length = accelerator.uploaded(self._decoding.lengths)
        self._ring = accelerator.device.pinned(total * batch * 4)
        self._tables = [self._decoding.table(segment) for segment in self._schedule.segments]
        numbers = [request.request for request in self._requests]
        is_apart = self._is_apart
        self._rows = [
            accelerator.uploaded(
                rows_from_params(
                    params_of_rows(self._sampling.of_level(level), numbers),
                    guidance=self._guidance if is_apart else 1.0,
                    penalty=self._penalty,
                    uncond_row=np.arange(batch, num_rows) if is_apart else -1,
                )
            )
            for level in levels
        ]
        sizes = [segment.size for segment in self._schedule.segments]
        self._seen = [accelerator.array((batch, -(-size // 32)), np.uint32) for size in sizes]
        self._plans = [sample_plan(accelerator.device.gpu, batch, size) for size in sizes]
        self._workspaces = [accelerator.array((plan.workspace_bytes,), np.uint8) for plan in self._plans]
        self._keys = [accelerator.array((plan.keys_bytes,), np.uint8) for plan in self._plans]
        self._heads = [self._head(level) for level in levels]
        for head in self._heads:
            value = 1.0 if is_apart else self._guidance
            accelerator.upload(head.guidance, np.full(head.guidance.shape, value, np.float32))
        return self._ring

    @property
    def _is_apart(self) -> bool:
        """Whether the sampler, not the head, combines both sides: a penalty acts on the conditional one alone."""
        return self._sides == 2 and self._penalty != 1.0

    def _head(self, level: int) -> Head:
        name = self._schedule.segments[level].name
        if self._is_apart:
            return self._decoding.head(name, 2 * self._batch, False)
        return self._decoding.head(name, self._batch, self._sides == 2)

    def _step_of(self, new: int) -> Step:
        """The decoder for so many new tokens: one for the whole loop, as programs point at its arrays."""
        if new not in self._steps:
            self._steps[new] = self._decoding.step(self._batch * self._sides, new)
        return self._steps[new]

    def _program(self, k: int) -> Program:
        steps = self._schedule.steps
        num_next = 1 + len(steps[k + 1].tokens) if k + 1 < len(steps) else 0
        before = steps[k - 1].level if k > 0 else -1
        kind = StepKind(before, steps[k].tokens if k > 0 else (), steps[k].level, num_next)
        program = self._programs.get(kind)
        if program is None:
            program = self._programs[kind] = Program(self._accelerator.stream, self._operations(kind))
        return program

    def _operations(self, kind: StepKind) -> list[Operation]:
        operations: list[Operation] = []
        num_rows = self._batch * self._sides
        if kind.before >= 0:
            step = self._step_of(1 + len(kind.forced))
            operations += [(self._launching(self._gather(kind, step.embeds)), True), *step.operations]
        head = self._heads[kind.level]
        operations += head.operations
        operations.append((self._launching(self._sample(kind.level, head.logits)), True))
        positions = self._step_of(kind.num_next).positions.address if kind.num_next else 0
        advance = advance_step(
            self._token.address,
            self._ring.address,
            self._count.address,
            self._length.address,
            positions,
            batch=self._batch,
            num_slots=len(self._schedule.steps),
            rows=num_rows,
            num_new=kind.num_next,
        )
        operations.append((self._launching(advance), True))
        return operations

    def _gather(self, kind: StepKind, embeds: DeviceArray) -> Any:
        segment, table = self._schedule.segments[kind.before], self._tables[kind.before]
        places = segment.size + np.searchsorted(self._decoding.controls, np.array(kind.forced, np.int64))
        appended = self._accelerator.uploaded(places.astype(np.int32))
        self._kept.append(appended)
        return gather_embedding(
            table.address,
            self._token.address,
            appended.address,
            embeds.address,
            num_ids=table.shape[0],
            row_bytes=table.shape[1] * table.dtype.itemsize,
            start=0,
            batch=self._batch,
            num_appended=len(kind.forced),
            sides=self._sides,
        )

    def _sample(self, level: int, logits: DeviceArray) -> Any:
        plan, size = self._plans[level], self._schedule.segments[level].size
        return plan.launch(
            LogitSegment(logits.address, "float32", size, 0, size),
            self._rows[level].address,
            self._step.address,
            self._token.address,
            workspace=self._workspaces[level].address if plan.workspace_bytes else 0,
            keys=self._keys[level].address if plan.keys_bytes else 0,
            seen=self._seen[level].address if self._penalty != 1.0 else 0,
            guided=self._is_apart,
        )

    def _launching(self, launch: Any) -> Any:
        return lambda: self._accelerator.launch(launch)


def _row_ends(schedule: Schedule) -> list[int]:
    """The steps behind the last one of each row of codes."""
    steps = schedule.steps
    return [
        k + 1
        for k in range(len(steps))
        if k + 1 == len(steps) or (steps[k + 1].level, steps[k + 1].row) != (steps[k].level, steps[k].row)
    ]
