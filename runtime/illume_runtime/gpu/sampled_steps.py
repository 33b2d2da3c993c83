"""Steps that choose their tokens on the device.

A step is one program: embeddings of the last token and of what is forced behind it, decoder, head of the segment,
sampler, and the token into a ring of pinned memory with the positions of the next step. There are few kinds of steps,
each captured once; requests of one shape share them.

Shapes: B pictures or answers, R rows (2 B where guided), n tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from illume_kernels.launch import Launch
from illume_kernels.launch import Segment as LogitSegment
from illume_kernels.rows import bits_of_tokens
from illume_kernels.sample_plan import GUMBEL_WORKSPACE_BYTES, SamplePlan, sample_gumbel, sample_plan
from illume_kernels.step_launch import advance_step
from illume_runtime.device.array import DeviceArray
from illume_runtime.gpu.decoding import Decoding, Head, Step
from illume_runtime.gpu.program import Operation, Program
from illume_runtime.manifest import Segment
from illume_runtime.trace import Argument, Work


@dataclass(frozen=True, slots=True)
class StepKind:
    """Steps of one kind are one program: the level before (-1: none), what is forced, the level, what comes next.

    `ban` is the place of the tokens that may not be chosen.
    """

    before: int
    forced: tuple[int, ...]
    level: int
    num_next: int
    ban: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """What requests have in common that share programs.

    A level is a segment that is chosen from. With `is_apart` the sampler, not the head, combines both sides. `bans` are
    the tokens [any] of the (one) level that a step of that place never chooses. Greedy steps take the largest, in one
    pass.
    """

    segments: tuple[Segment, ...]
    batch: int
    sides: int
    is_apart: bool
    ring_slots: int
    is_greedy: bool
    bans: tuple[tuple[int, ...], ...] = ((),)


class SampledSteps:
    """The arrays and programs of one shape, with the caches that `decoding` has at hand."""

    def __init__(self, decoding: Decoding, shape: Shape) -> None:
        self._decoding, self._accelerator, self._shape = decoding, decoding.accelerator, shape
        accelerator, batch = self._accelerator, shape.batch
        sizes = [segment.size for segment in shape.segments]
        self._token = accelerator.array((batch,), np.int32)
        self._step = accelerator.array((batch,), np.uint32)
        self._count = accelerator.array((1,), np.uint32)
        self._length = accelerator.uploaded(decoding.lengths)
        self._ring = accelerator.device.pinned(shape.ring_slots * batch * 4)
        self.chosen: NDArray[np.int32] = self._ring.array.view(np.int32).reshape(shape.ring_slots, batch)
        """[slots, B]: step k is in slot k modulo their number, once the device has come there."""
        self._tables = [decoding.table(segment) for segment in shape.segments]
        self._seen = [accelerator.array((batch, -(-size // 32)), np.uint32) for size in sizes]
        self._bans = [accelerator.uploaded(bits_of_tokens(ban, sizes[0])) if ban else None for ban in shape.bans]
        self._plans: list[SamplePlan] = [sample_plan(accelerator.device.gpu, batch, size) for size in sizes]
        of_plan = [GUMBEL_WORKSPACE_BYTES * batch if shape.is_greedy else plan.workspace_bytes for plan in self._plans]
        self._workspaces = [accelerator.array((num_bytes,), np.uint8) for num_bytes in of_plan]
        self._keys = [accelerator.array((plan.keys_bytes,), np.uint8) for plan in self._plans]
        self.heads: list[Head] = [self._head(segment) for segment in shape.segments]
        self._rows: list[DeviceArray] = []
        self._steps: dict[int, Step] = {}
        self._programs: dict[StepKind, Program] = {}
        self._kept: list[DeviceArray] = []  # what only the programs' addresses point at

    def begin(self, rows: Sequence[NDArray[Any]], guidance: float) -> None:
        """A new request behind its prefill: how each row [B] of each level is sampled, and the head's guidance."""
        accelerator = self._accelerator
        packed = [np.ascontiguousarray(level).view(np.uint8) for level in rows]
        if self._rows:
            for target, level in zip(self._rows, packed, strict=True):
                accelerator.upload(target, level)
        else:
            self._rows = [accelerator.uploaded(level) for level in packed]
        for array in (self._step, self._count, *self._seen):
            accelerator.stream.zero(array.address, array.nbytes)
        accelerator.upload(self._length, self._decoding.lengths)
        for head in self.heads:
            accelerator.upload(head.guidance, np.full(head.guidance.shape, guidance, np.float32))

    def run(self, kind: StepKind) -> None:
        """Enqueue a step; the host does not wait."""
        program = self._programs.get(kind)
        if program is None:
            program = self._programs[kind] = Program(self._accelerator.stream, self._operations(kind))
        program.run()

    def work(self, name: str, segment: Segment, num_steps: int) -> Work:
        """What some steps read and compute; the cache is not counted."""
        stages, shape = self._decoding.stages, self._shape
        names = ("decoder", f"head_{segment.name}")
        each = [stages.work(one, stages.bundle.stage(one), shape.batch * shape.sides, tokens=1) for one in names]
        num_bytes, flops = sum(work.num_bytes for work in each), sum(work.flops for work in each)
        counted: dict[str, Argument] = {"tokens": num_steps * shape.batch}
        return Work(name, "stage", num_steps * num_bytes, num_steps * flops, counted)

    def _head(self, segment: Segment) -> Head:
        shape = self._shape
        if shape.is_apart:
            return self._decoding.head(segment.name, shape.sides * shape.batch, False)
        return self._decoding.head(segment.name, shape.batch, shape.sides == 2)

    def _step_of(self, new: int) -> Step:
        """The decoder for so many new tokens: the same for all programs, as they point at its arrays."""
        if new not in self._steps:
            self._steps[new] = self._decoding.step(self._shape.batch * self._shape.sides, new)
        return self._steps[new]

    def _operations(self, kind: StepKind) -> list[Operation]:
        operations: list[Operation] = []
        shape = self._shape
        if kind.before >= 0:
            step = self._step_of(1 + len(kind.forced))
            operations += [(self._launching(self._gather(kind, step.embeds)), True), *step.operations]
        head = self.heads[kind.level]
        operations += head.operations
        operations.append((self._launching(self._sample(kind, head.logits)), True))
        positions = self._step_of(kind.num_next).positions.address if kind.num_next else 0
        advance = advance_step(
            self._token.address,
            self._ring.address,
            self._count.address,
            self._length.address,
            positions,
            batch=shape.batch,
            num_slots=shape.ring_slots,
            rows=shape.batch * shape.sides,
            num_new=kind.num_next,
        )
        operations.append((self._launching(advance), True))
        return operations

    def _gather(self, kind: StepKind, embeds: DeviceArray) -> Launch:
        size = self._shape.segments[kind.before].size
        places = size + np.searchsorted(self._decoding.controls, np.array(kind.forced, np.int64))
        appended = self._accelerator.uploaded(places.astype(np.int32))
        self._kept.append(appended)
        return self._tables[kind.before].gather(
            self._token, appended, embeds, num_appended=len(kind.forced), sides=self._shape.sides
        )

    def _sample(self, kind: StepKind, logits: DeviceArray) -> Launch:
        level, banned = kind.level, self._bans[kind.ban]
        plan, size = self._plans[level], self._shape.segments[level].size
        of_segment = LogitSegment(logits.address, "float32", size, 0, size)
        seen, bans = self._seen[level].address, 0 if banned is None else banned.address
        if self._shape.is_greedy:
            return sample_gumbel(
                self._accelerator.device.gpu,
                self._shape.batch,
                of_segment,
                self._rows[level].address,
                self._step.address,
                self._token.address,
                self._workspaces[level].address,
                seen=seen,
                banned=bans,
                guided=self._shape.is_apart,
            )
        return plan.launch(
            of_segment,
            self._rows[level].address,
            self._step.address,
            self._token.address,
            workspace=self._workspaces[level].address if plan.workspace_bytes else 0,
            keys=self._keys[level].address if plan.keys_bytes else 0,
            seen=seen,
            banned=bans,
            guided=self._shape.is_apart,
        )

    def _launching(self, launch: Launch) -> Callable[[], None]:
        return partial(self._accelerator.launch, launch)  # no cycle: what is given up is free at once


def sampled_steps(decoding: Decoding, shape: Shape) -> SampledSteps:
    """Those of an earlier request of this shape where the caches are still the same, else new ones."""
    key = (shape, decoding.slots)
    found = decoding.sharing.get(key)
    if not isinstance(found, SampledSteps):
        found = SampledSteps(decoding, shape)
        decoding.share(key, found)
    return found
