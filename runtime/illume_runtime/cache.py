"""The cache of keys and values, and the decoder bound to it: written in place, kept from request to request.

Shapes: R rows, T new tokens, S slots, K key-value heads, E head width.
"""

from __future__ import annotations

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

Arrays = NDArray[np.float32]
SLOT_BLOCK: Final = 64  # slots are allocated in multiples of this
MAX_BINDINGS: Final = 64


def slots_for(capacity: int) -> int:
    """Slots of a cache that holds `capacity` positions, where their number is ours to choose."""
    return -(-capacity // SLOT_BLOCK) * SLOT_BLOCK


def static_slots(bundle: Bundle) -> int | None:
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


class Bound:
    """The decoder bound to one cache at one shape."""

    __slots__ = ("cache_bytes", "embeds", "hidden", "offsets", "positions", "run", "work")

    def __init__(self, stages: Stages, caches: dict[str, Arrays], rows: int, new: int) -> None:
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


class Cache:
    """Keys and values of all layers: one flat buffer each, seen as [R, K, S, E] of the batch at hand."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._buffers: list[Arrays] = []
        self._bound: dict[tuple[int, int, int], Bound] = {}
        self._views: dict[tuple[int, int], dict[str, Arrays]] = {}

    def bound(self, rows: int, slots: int, new: int) -> Bound:
        """The decoder bound for this shape."""
        bound = self._bound.get((rows, slots, new))
        if bound is None:
            views = self.views(rows, slots)
            if len(self._bound) >= MAX_BINDINGS:
                self._bound.clear()
            bound = self._bound[rows, slots, new] = Bound(self._stages, views, rows, new)
        return bound

    def span(self, name: str, num_tokens: int, more_bytes: int) -> AbstractContextManager[None]:
        """A span of the decoder over tokens of this cache, whatever rows they are in."""
        decoder = self._stages.bundle.stage("decoder")
        return self._stages.span(name, decoder, 1, tokens=num_tokens, more_bytes=more_bytes)

    def views(self, rows: int, slots: int) -> dict[str, Arrays]:
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

    def _floats_per_slot(self) -> int:
        return self._stages.bundle.model.num_kv_heads * self._stages.bundle.model.head_dim
