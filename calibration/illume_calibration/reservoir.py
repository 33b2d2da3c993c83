"""A fair sample of a stream of calls, of bounded size: reservoir sampling (Vitter, 1985), stratum by stratum.

A stratum is what makes calls of a stage alike: the task, how many tokens they append, the time of a diffusion step.
Each has its own reservoir, so that what is rare is seen too.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_runtime.session import Arrays

Copy = dict[str, NDArray[np.generic]]
PER_STRATUM: Final = 4
MAX_BYTES: Final = 512 * 1024 * 1024
TIME_PARTS: Final = 5
FEW_TOKENS: Final = 4  # a step; more are a prefill


@dataclass(frozen=True, slots=True)
class Call:
    """Copies of what a stage was given and gave."""

    inputs: Copy
    outputs: Copy

    @property
    def num_bytes(self) -> int:
        """Size of the arrays."""
        return sum(array.nbytes for array in (*self.inputs.values(), *self.outputs.values()))


@dataclass(slots=True)
class Reservoir:
    """Calls by stage and stratum; the choice depends on the seed and the order of the calls alone."""

    seed: int
    per_stratum: int = PER_STRATUM
    max_bytes: int = MAX_BYTES
    _seen: dict[tuple[str, str], int] = field(default_factory=dict)
    _kept: dict[tuple[str, str], list[Call]] = field(default_factory=dict)
    _bytes: int = 0

    def offer(self, stage: str, task: str, inputs: Arrays, outputs: Arrays) -> None:
        """Keep copies of the call, in place of another one, or not."""
        key = (stage, f"{task} {_stratum(inputs)}")
        seen = self._seen[key] = self._seen.get(key, 0) + 1
        kept = self._kept.setdefault(key, [])
        full = len(kept) >= self.per_stratum or (bool(kept) and self._bytes >= self.max_bytes)
        slot = len(kept)
        if full:
            entropy = (self.seed, zlib.crc32(repr(key).encode()), seen)
            slot = int(np.random.default_rng(entropy).integers(seen))
            if slot >= len(kept):
                return
        call = Call(*({name: np.array(array) for name, array in arrays.items()} for arrays in (inputs, outputs)))
        if full:
            self._bytes -= kept[slot].num_bytes
            kept[slot] = call
        else:
            kept.append(call)
        self._bytes += call.num_bytes

    def calls(self, stage: str) -> Iterator[Call]:
        """The calls of a stage that were kept."""
        for (name, _), kept in self._kept.items():
            if name == stage:
                yield from kept

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that were called."""
        return tuple(dict.fromkeys(stage for stage, _ in self._kept))


def _stratum(inputs: Arrays) -> str:
    if "inputs_embeds" in inputs:
        return "step" if inputs["inputs_embeds"].shape[1] <= FEW_TOKENS else "prefill"
    if "time" in inputs:
        return f"time {min(int(float(np.ravel(inputs['time'])[0]) * TIME_PARTS), TIME_PARTS - 1)}"
    return ""
