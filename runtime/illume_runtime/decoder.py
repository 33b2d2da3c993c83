"""The token engine: prefill, steps and heads over one cache that is written in place.

Shapes: R rows, T new tokens, S cache slots, D width, K key-value heads, E head width. A row is one sequence; guidance
doubles the rows, conditional ones first. Slot j of a row holds position j, so rows of different lengths share a batch:
what a padded prefill leaves behind a row's end is overwritten before any token may see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_runtime.bundle import Bundle
from illume_runtime.errors import InvalidBundleError
from illume_runtime.memory import check_memory
from illume_runtime.session import BoundRun
from illume_runtime.stages import Stages
from illume_runtime.trace import Work

Embeds = NDArray[np.float32]
SLOT_BLOCK: Final = 64  # slots are allocated in multiples of this
TOKEN_BLOCK: Final = 8  # prefills are padded to multiples of this, so that few shapes are bound
MIN_SHARED: Final = 32  # a common beginning shorter than this is cheaper to compute twice
MAX_BINDINGS: Final = 64


class TokenEngine:
    """Runs `decoder` and the heads for one batch at a time; the memory of the largest batch so far is kept."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._model = stages.bundle.model
        self._decoder = stages.bundle.stage("decoder")
        self._embedding = stages.bundle.table("token_embedding").view(np.ndarray)  # a map's own class is slow to index
        self._main = _Cache(stages)
        self._scratch = _Cache(stages)
        self._heads: dict[tuple[str, int], _Head] = {}
        self._slots = 0
        self._lengths = np.zeros(0, np.int64)
        self._static_slots = _static_slots(stages.bundle)

    def close(self) -> None:
        """Give the memory of the caches and heads back."""
        self._main, self._scratch, self._heads = _Cache(self._stages), _Cache(self._stages), {}

    def embed(self, ids: Sequence[int] | NDArray[np.int64]) -> Embeds:
        """Embeddings [T, D] of ids [T]."""
        rows: Embeds = self._embedding[np.asarray(ids, np.int64)].astype(np.float32, copy=False)
        return rows

    def start(self, rows: Sequence[Embeds], capacity: int) -> Embeds:
        """Prefills sequences [T_r, D] for up to `capacity` positions each; the last hidden state [R, D] of each.

        Equal rows are computed once, and so is a long common beginning of different rows.
        """
        self._slots = self._static_slots or -(-capacity // SLOT_BLOCK) * SLOT_BLOCK
        whole: dict[bytes, int] = {}
        unique: list[Embeds] = []
        of_row = [_index_of(row, whole, unique) for row in rows]
        shared = self._shared_beginnings(unique)
        self._lengths = np.zeros(len(rows), np.int64)
        if shared is None:
            hidden = self._prefill(unique, of_row)
            self._lengths[:] = [len(row) for row in rows]
            return hidden
        beginnings, of_unique = shared
        self._prefill(beginnings, [of_unique[i] for i in of_row])
        self._lengths[:] = [len(beginnings[of_unique[i]]) for i in of_row]
        return self._append([row[length:] for row, length in zip(rows, self._lengths, strict=True)])

    def step(self, tokens: NDArray[np.int64], segment: str) -> Embeds:
        """Appends tokens [R, T] to all rows; the hidden state [R, D] of the last ones, valid until the next call."""
        num_rows, num_new = tokens.shape
        bound = self._main.bound(num_rows, self._slots, num_new)
        work = bound.work.get(segment)
        if work is None:
            work = bound.work[segment] = self._stages.work(
                f"decode.{segment}", self._decoder, num_rows, tokens=num_new, more_bytes=bound.cache_bytes
            )
        with self._stages.tracer.span_of(work):
            np.take(self._embedding, tokens, axis=0, out=bound.embeds, mode="clip")
            np.add(self._lengths[:, None], bound.offsets, out=bound.positions)
            bound.run.run()
        self._lengths += num_new
        last: Embeds = bound.hidden[:, -1]
        return last

    def logits(self, segment: str, hidden: Embeds, guidance: float) -> NDArray[np.float32]:
        """Logits [B, n] of a segment, valid until the next call; hidden is [B, D], or [2 B, D] with guidance."""
        guided = guidance != 1.0
        batch = len(hidden) // 2 if guided else len(hidden)
        head = self._heads.get((segment, batch))
        if head is None:
            head = self._heads[segment, batch] = _Head(self._stages, segment, batch)
        with self._stages.tracer.span_of(head.work):
            head.hidden[:] = hidden[:batch]
            head.hidden_uncond[:] = hidden[batch:] if guided else hidden
            head.guidance[:] = guidance
            head.run.run()
        return head.logits

    def _shared_beginnings(self, unique: list[Embeds]) -> tuple[list[Embeds], list[int]] | None:
        """Beginnings and which one each unique row has; None where sharing saves nothing or does not fit."""
        if len(unique) < 2:
            return None
        groups: dict[bytes, list[int]] = {}
        for i, row in enumerate(unique):
            groups.setdefault(row[:MIN_SHARED].tobytes() if len(row) > MIN_SHARED else row.tobytes(), []).append(i)
        if len(groups) == len(unique):
            return None
        beginnings: list[Embeds] = []
        of_unique = [0] * len(unique)
        for members in groups.values():
            length = _common_length([unique[i] for i in members]) if len(members) > 1 else len(unique[members[0]])
            length = min(length, *(len(unique[i]) - 1 for i in members))
            for i in members:
                of_unique[i] = len(beginnings)
            beginnings.append(unique[members[0]][:length])
        longest = max(len(row) - len(beginnings[g]) for row, g in zip(unique, of_unique, strict=True))
        if max(map(len, beginnings)) + _padded(longest) > self._slots:
            return None
        return beginnings, of_unique

    def _prefill(self, unique: list[Embeds], of_row: list[int]) -> Embeds:
        """Fills the rows of the main cache from unique sequences; the last hidden state [R, D] of each row."""
        longest = max(map(len, unique))
        direct = len(unique) == len(of_row)
        cache = self._main if direct else self._scratch
        slots = self._slots if direct or self._static_slots else _padded(longest)
        hidden = _run(cache, slots, unique, np.zeros(len(unique), np.int64))
        if not direct:
            self._scratch.copy_rows(self._main, of_row, (len(unique), slots), (len(of_row), self._slots), longest)
        return hidden[of_row]

    def _append(self, rows: list[Embeds]) -> Embeds:
        hidden = _run(self._main, self._slots, rows, self._lengths)
        self._lengths += [len(row) for row in rows]
        return hidden


class _Bound:
    """The decoder bound to one cache at one shape."""

    __slots__ = ("cache_bytes", "embeds", "hidden", "offsets", "positions", "run", "work")

    def __init__(self, stages: Stages, caches: dict[str, Embeds], rows: int, new: int) -> None:
        width = stages.bundle.model.hidden_size
        self.embeds = np.zeros((rows, new, width), np.float32)
        self.positions = np.zeros((rows, new), np.int64)
        self.offsets = np.arange(new)
        self.cache_bytes = sum(array.nbytes for array in caches.values())
        self.hidden = np.zeros((rows, new, width), np.float32)
        self.work: dict[str, Work] = {}  # of a step, by segment
        self.run: BoundRun = stages["decoder"].bind(
            {"inputs_embeds": self.embeds, "positions": self.positions, **caches},
            {"hidden": self.hidden, **{f"{name}_out": array for name, array in caches.items()}},
        )


class _Cache:
    """Keys and values of all layers: one flat buffer each, seen as [R, K, S, E] of the batch at hand."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._buffers: list[Embeds] = []
        self._bound: dict[tuple[int, int, int], _Bound] = {}
        self._views: dict[tuple[int, int], dict[str, Embeds]] = {}

    def bound(self, rows: int, slots: int, new: int) -> _Bound:
        """The decoder bound for this shape."""
        bound = self._bound.get((rows, slots, new))
        if bound is None:
            views = self.views(rows, slots)
            if len(self._bound) >= MAX_BINDINGS:
                self._bound.clear()
            bound = self._bound[rows, slots, new] = _Bound(self._stages, views, rows, new)
        return bound

    def span(self, name: str, num_tokens: int, more_bytes: int) -> AbstractContextManager[None]:
        """A span of the decoder over tokens of this cache, whatever rows they are in."""
        decoder = self._stages.bundle.stage("decoder")
        return self._stages.span(name, decoder, 1, tokens=num_tokens, more_bytes=more_bytes)

    def views(self, rows: int, slots: int) -> dict[str, Embeds]:
        """Cache arrays [R, K, S, E] by input name; a larger batch than any before replaces the buffers.

        Raises MemoryLimitError if the memory does not suffice for them.
        """
        model = self._stages.bundle.model
        count = rows * slots * self._floats_per_slot()
        if not self._buffers or self._buffers[0].size < count:
            self._bound.clear()
            self._views.clear()
            self._buffers = []  # gone before the larger ones are made
            num_bytes = 2 * model.num_layers * count * np.dtype(np.float32).itemsize
            check_memory(num_bytes, f"the cache of {rows} sequences", "ask for fewer at once")
            self._buffers = [np.zeros(count, np.float32) for _ in range(2 * model.num_layers)]
        views = self._views.get((rows, slots))
        if views is None:
            shape = (rows, model.num_kv_heads, slots, model.head_dim)
            names = [f"{kind}_cache_{i}" for i in range(model.num_layers) for kind in ("key", "value")]
            arrays = (buffer[:count].reshape(shape) for buffer in self._buffers)
            views = self._views[rows, slots] = dict(zip(names, arrays, strict=True))
        return views

    def copy_rows(
        self, target: _Cache, of_row: list[int], source: tuple[int, int], into: tuple[int, int], length: int
    ) -> None:
        """Copies the first `length` slots of this cache's rows to the target's; both are (rows, slots)."""
        ours, theirs = self.views(*source), target.views(*into)
        for name, array in theirs.items():
            array[:, :, :length] = ours[name][of_row, :, :length]

    def _floats_per_slot(self) -> int:
        return self._stages.bundle.model.num_kv_heads * self._stages.bundle.model.head_dim


class _Head:
    """A head bound at one batch size."""

    __slots__ = ("guidance", "hidden", "hidden_uncond", "logits", "run", "work")

    def __init__(self, stages: Stages, segment: str, batch: int) -> None:
        width = stages.bundle.model.hidden_size
        self.hidden = np.zeros((batch, width), np.float32)
        self.hidden_uncond = np.zeros((batch, width), np.float32)
        self.guidance = np.ones(batch, np.float32)
        self.logits = np.zeros((batch, stages.bundle.vocabulary.segment(segment).size), np.float32)
        spec = stages.bundle.stage(f"head_{segment}")
        self.work = stages.work(f"head.{segment}", spec, batch, tokens=1)
        self.run: BoundRun = stages[spec.name].bind(
            {"hidden": self.hidden, "hidden_uncond": self.hidden_uncond, "guidance": self.guidance},
            {"logits": self.logits},
        )


def _static_slots(bundle: Bundle) -> int | None:
    """The slots of a decoder whose cache dimension is a number; None where it is a name: then the choice is ours."""
    model = bundle.model
    ports = {port.name: port.shape for port in bundle.stage("decoder").inputs}
    expected = ("B", model.num_kv_heads, "S", model.head_dim)
    slots: set[int | str] = set()
    for name in (f"{kind}_cache_{i}" for i in range(model.num_layers) for kind in ("key", "value")):
        shape = ports.get(name, ())
        if len(shape) != 4 or (shape[1], shape[3]) != (model.num_kv_heads, model.head_dim):
            raise InvalidBundleError(f"stages.decoder: {name} has the shape {list(shape)}, expected {list(expected)}")
        slots.add(shape[2])
    if len(slots) != 1:
        raise InvalidBundleError(f"stages.decoder: the caches have {slots} slots, expected one number for all")
    (found,) = slots
    if not isinstance(found, int):
        return None
    if found < model.max_context:
        raise InvalidBundleError(f"stages.decoder: the caches have {found} slots, expected {model.max_context}")
    return found


def _run(cache: _Cache, slots: int, rows: Sequence[Embeds], starts: NDArray[np.int64]) -> Embeds:
    """Appends sequences [T_r, D] at positions `starts` [R]; the hidden state [R, D] of each one's last token."""
    lengths = np.array([len(row) for row in rows], np.int64)
    if lengths.min() < 1:
        raise InvalidBundleError("prompts: a prompt is empty; expected at least one token")
    new = min(_padded(int(lengths.max())), slots - int(starts.max()))
    bound = cache.bound(len(rows), slots, new)
    with cache.span("prefill", int(lengths.sum()), bound.cache_bytes):
        bound.embeds[:] = 0.0
        for target, row in zip(bound.embeds, rows, strict=True):
            target[: len(row)] = row
        np.add(starts[:, None], bound.offsets, out=bound.positions)
        bound.run.run()
    last: Embeds = bound.hidden[np.arange(len(rows)), lengths - 1]
    return last


def _index_of(row: Embeds, known: dict[bytes, int], unique: list[Embeds]) -> int:
    """Index of a row among the unique ones, to which it is added if it is new."""
    index = known.setdefault(row.tobytes(), len(unique))
    if index == len(unique):
        unique.append(row)
    return index


def _common_length(rows: list[Embeds]) -> int:
    shortest = min(map(len, rows))
    first = rows[0][:shortest]
    equal = np.logical_and.reduce([(row[:shortest] == first).all(axis=1) for row in rows[1:]])
    return shortest if equal.all() else int(np.argmin(equal))


def _padded(length: int) -> int:
    return -(-length // TOKEN_BLOCK) * TOKEN_BLOCK
