"""The decoder and its heads on a GPU: caches that never leave it, and the states of the last tokens.

Shapes: R rows, T new tokens, S slots, D width. Guided pictures have the conditional sides in the first half of the
rows and the unconditional ones in the second, so that a head reads both where they lie.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_kernels.step_launch import gather_embedding
from illume_runtime.cache import slots_for, static_slots
from illume_runtime.device.array import DeviceArray
from illume_runtime.errors import InvalidBundleError
from illume_runtime.gpu.accelerator import Accelerator
from illume_runtime.gpu.embeddings import DeviceEmbedding, device_embedding
from illume_runtime.gpu.program import Operation, Program
from illume_runtime.gpu.session import DeviceRun, DeviceSession, device_session
from illume_runtime.manifest import Segment
from illume_runtime.prefixes import unique_rows
from illume_runtime.stages import Stages
from illume_runtime.token_embedding import TokenEmbedding
from illume_runtime.token_engine import Embeds
from illume_runtime.trace import Work

TOKEN_BLOCK: Final = 8
MAX_BINDINGS: Final = 64
ALIGNMENT: Final = 256  # that TensorRT wants of every address


class Decoding:
    """Bound runs of `decoder`, its caches, and bound runs of the heads. One batch at a time."""

    def __init__(self, stages: Stages, accelerator: Accelerator) -> None:
        self.stages, self.accelerator = stages, accelerator
        self.model = stages.bundle.model
        self._embedding = TokenEmbedding(stages.bundle)
        self._buffers: list[DeviceArray] = []
        self._capacity = 0  # elements of each
        self._bound: dict[tuple[int, int, int], Step] = {}
        self._heads: dict[tuple[str, int, bool], Head] = {}
        self._states: DeviceArray | None = None
        self.num_rows = self.slots = 0
        self.lengths = np.zeros(0, np.int64)
        self._static_slots = static_slots(stages.bundle)
        self._tables: dict[str, DeviceEmbedding] = {}
        self.sharing: dict[Hashable, object] = {}
        self.controls = np.unique(np.array([*stages.bundle.vocabulary.controls.values()], np.int64))

    @property
    def decoder(self) -> DeviceSession:
        """The stage's session."""
        return device_session(self.stages["decoder"])

    def close(self) -> None:
        """Give the memory back."""
        self._forget()
        self._buffers, self._capacity, self._states, self._tables = [], 0, None, {}

    def share(self, key: Hashable, programs: object) -> None:
        """Keep what points at the caches and states, in `sharing`, until these are others."""
        if len(self.sharing) >= MAX_BINDINGS:
            self.accelerator.stream.synchronize()
            self.sharing.clear()
        self.sharing[key] = programs

    def _forget(self) -> None:
        """Give up all that points at the caches and states, once nothing works on it any more."""
        self.accelerator.stream.synchronize()
        self.sharing.clear()
        self._bound.clear()
        self._heads.clear()

    def _forget_prefills(self) -> None:
        """Of the prefills, whose arrays are the largest, one stays bound."""
        old = [key for key in self._bound if key[2] >= TOKEN_BLOCK]
        if old:
            self.accelerator.stream.synchronize()
        for key in old:
            del self._bound[key]

    def table(self, segment: Segment) -> DeviceEmbedding:
        """Embeddings [n + C, D] of a segment's tokens and, behind them, of the `controls`; uploaded once."""
        found = self._tables.get(segment.name)
        if found is None:
            ids = np.concatenate((np.arange(segment.start, segment.end), self.controls))
            what = f"the embeddings of {segment.name}"
            found = self._tables[segment.name] = device_embedding(self._embedding, ids, self.accelerator, what)
        return found

    def embed(self, ids: Sequence[int] | NDArray[np.int64]) -> Embeds:
        """Embeddings [T, D] of ids [T], on the host."""
        return self._embedding.rows(ids)

    def start(self, rows: Sequence[Embeds], capacity: int) -> None:
        """Prefills sequences [T_r, D] for up to `capacity` positions each; `states` become those of the last.

        Equal rows are computed once.
        """
        lengths = np.array([len(row) for row in rows], np.int64)
        if lengths.min() < 1:
            raise InvalidBundleError("prompts: a prompt is empty; expected at least one token")
        self.slots = self.decoder.slots or self._static_slots or slots_for(capacity)
        self.num_rows = len(rows)
        new = min(-(-int(lengths.max()) // TOKEN_BLOCK) * TOKEN_BLOCK, self.slots)
        unique, of_row = unique_rows(rows)
        num_unique = len(unique)
        embeds = np.zeros((num_unique, new, self.model.hidden_size), np.float32)
        for target, row in zip(embeds, unique, strict=True):
            target[: len(row)] = row
        self.lengths = lengths
        ends = np.array([len(row) for row in unique], np.int64)
        stages = self.stages

        def work() -> Work:
            return stages.work("prefill", stages.bundle.stage("decoder"), 1, tokens=int(ends.sum()))

        with self.accelerator.track.span(stages.tracer, work):
            step = self.step(num_unique, new)
            positions = np.broadcast_to(np.arange(new), (num_unique, new))
            self.accelerator.upload(step.embeds, embeds)
            self.accelerator.upload(step.positions, positions)
            self.accelerator.upload(step.last, (np.arange(num_unique) * new + ends - 1).astype(np.int32))
            step.program.run()
            self._spread(of_row)

    def _spread(self, of_row: Sequence[int]) -> None:
        """Fill all rows from those that were computed, which are the first: row r from row of_row[r] <= r."""
        for r in range(len(of_row) - 1, -1, -1):  # from the end on, so that no row is overwritten before it is read
            source = of_row[r]
            if source == r:
                continue
            for array in self._caches(self.num_rows).values():
                _, heads, slots, width = array.shape
                of_head = slots * width * array.dtype.itemsize
                used = int(self.lengths[r]) * width * array.dtype.itemsize
                for head in range(heads):
                    to, at = (array.address + (row * heads + head) * of_head for row in (r, source))
                    self.accelerator.stream.copy(to, at, used)
            state, states = self.model.hidden_size * self.states.dtype.itemsize, self.states.address
            self.accelerator.stream.copy(states + r * state, states + source * state, state)

    def step(self, num_rows: int, new: int) -> Step:
        """The decoder bound for so many rows and new tokens, with the caches of the batch at hand."""
        found = self._bound.get((num_rows, self.slots, new))
        if found is None:
            caches = self._caches(num_rows)
            if len(self._bound) >= MAX_BINDINGS:
                self.accelerator.stream.synchronize()
                self._bound.clear()
            if new >= TOKEN_BLOCK:
                self._forget_prefills()
            found = self._bound[num_rows, self.slots, new] = Step(self, caches, num_rows, new)
        return found

    @property
    def states(self) -> DeviceArray:
        """Hidden states [R, D] of the last tokens."""
        if self._states is None or self._states.shape[0] < self.num_rows:
            self._forget()
            self._states = self.accelerator.array((self.num_rows, self.model.hidden_size), np.float32)
        return self._states.rows(0, self.num_rows)

    def head(self, segment: str, batch: int, is_guided: bool) -> Head:
        """The head of a segment on the states: of `batch` pairs of rows where guided, else of the first rows."""
        key = (segment, batch, is_guided)
        if key not in self._heads:
            self._heads[key] = Head(self, segment, batch, is_guided)
        return self._heads[key]

    def _caches(self, num_rows: int) -> dict[str, DeviceArray]:
        """The first rows of the batch's caches."""
        model, session = self.model, self.decoder
        names = [f"{kind}_cache_{i}" for i in range(model.num_layers) for kind in ("key", "value")]
        shape = (model.num_kv_heads, self.slots, model.head_dim)
        count = self.num_rows * int(np.prod(shape))
        dtypes = [session.dtype_of(name) for name in names]
        if count > self._capacity:
            self._forget()
            self._buffers = []  # gone before the larger ones are made
            what = f"the cache of {self.num_rows} sequences"
            self.accelerator.check_memory(count * sum(dtype.itemsize for dtype in dtypes), what)
            self._buffers = [self.accelerator.array((count,), dtype, what) for dtype in dtypes]
            self._capacity = count
        return {name: buffer.shaped(num_rows, *shape) for name, buffer in zip(names, self._buffers, strict=True)}


class Step:
    """The decoder at one shape: embeds and positions in, the caches written in place, the last states out."""

    def __init__(self, decoding: Decoding, caches: dict[str, DeviceArray], num_rows: int, new: int) -> None:
        accelerator, width = decoding.accelerator, decoding.model.hidden_size
        states = decoding.states
        self.embeds = accelerator.array((num_rows, new, width), np.float32)
        self.positions = accelerator.array((num_rows, new), np.int64)
        self.last = accelerator.uploaded((np.arange(num_rows) * new + new - 1).astype(np.int32))
        self._hidden = accelerator.array((num_rows, new, width), np.float32)
        self._run: DeviceRun = decoding.decoder.bind_device(
            {"inputs_embeds": self.embeds, "positions": self.positions, **caches},
            {"hidden": self._hidden, **{f"{name}_out": array for name, array in caches.items()}},
        )
        gather = gather_embedding(
            self._hidden.address,
            self.last.address,
            0,
            states.address,
            num_ids=num_rows * new,
            width=width,
            start=0,
            batch=num_rows,
            num_appended=0,
            sides=1,
        )
        self.operations: list[Operation] = [
            (self._run.enqueue, self._run.is_capturable),
            (partial(accelerator.launch, gather), True),  # not by way of itself: it is free when it is given up
        ]
        self.program = Program(accelerator.stream, self.operations)


class Head:
    """A head at one batch size."""

    def __init__(self, decoding: Decoding, segment: str, batch: int, is_guided: bool) -> None:
        accelerator, stages = decoding.accelerator, decoding.stages
        session = device_session(stages[f"head_{segment}"])
        states = decoding.states
        self.operations: list[Operation] = []
        cond = states.rows(0, batch)
        uncond = states.rows(batch, 2 * batch) if is_guided else cond
        if uncond.address % ALIGNMENT != 0:
            source, uncond = uncond, accelerator.array(uncond.shape, uncond.dtype)
            target, num_bytes = uncond.address, uncond.nbytes
            self.operations.append((lambda: accelerator.stream.copy(target, source.address, num_bytes), True))
        self.guidance = accelerator.uploaded(np.ones(batch, np.float32))
        self.logits = accelerator.array((batch, stages.bundle.vocabulary.segment(segment).size), np.float32)
        self._run: DeviceRun = session.bind_device(
            {"hidden": cond, "hidden_uncond": uncond, "guidance": self.guidance}, {"logits": self.logits}
        )
        self.operations.append((self._run.enqueue, self._run.is_capturable))
