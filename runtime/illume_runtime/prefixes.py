"""What prompts have in common, so that it is computed once: among the rows of a batch, and with prompts that are kept.

Kept are prompts that are the model's own, as the unconditional side of a drawing is: one for each size, whatever the
user says. Their keys and values are copied where they are needed, and prompts that begin alike begin with them.

Shapes: T tokens, D width, K key-value heads, E head width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from illume_runtime.limits import MAX_KEPT_PROMPTS

Embeds = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class KeptPrompt:
    """A prompt [T, D], the hidden state [D] of its last token, and its keys and values [K, T, E] by input name."""

    row: Embeds
    hidden: Embeds
    caches: Mapping[str, Embeds]


class KeptPrompts:
    """At most MAX_KEPT_PROMPTS; the one that was not asked for the longest gives way."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, KeptPrompt] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, row: Embeds) -> KeptPrompt | None:
        """The prompt that is exactly this one."""
        key = row.tobytes()
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, prompt: KeptPrompt) -> None:
        """Keep the prompt; the arrays are the caller's no more."""
        self._kept[prompt.row.tobytes()] = prompt
        while len(self._kept) > MAX_KEPT_PROMPTS:
            self._kept.popitem(last=False)

    def beginning(self, row: Embeds) -> tuple[KeptPrompt | None, int]:
        """The kept prompt with the longest common beginning, and its length: less than the row's own."""
        best, longest = None, 0
        for kept in self._kept.values():
            length = min(common_length((row, kept.row)), len(row) - 1)
            if length > longest:
                best, longest = kept, length
        return best, longest


def unique_rows(rows: Sequence[Embeds]) -> tuple[list[Embeds], list[int]]:
    """The rows that differ, and which of them each row is."""
    known: dict[bytes, int] = {}
    unique: list[Embeds] = []
    of_row = []
    for row in rows:
        index = known.setdefault(row.tobytes(), len(unique))
        if index == len(unique):
            unique.append(row)
        of_row.append(index)
    return unique, of_row


def shared_beginnings(unique: Sequence[Embeds], shortest: int) -> tuple[list[Embeds], list[int]] | None:
    """Beginnings and which one each row has, where some have at least `shortest` tokens in common; else None.

    Each is shorter than the rows that have it.
    """
    groups: dict[bytes, list[int]] = {}
    for i, row in enumerate(unique):
        groups.setdefault(row[:shortest].tobytes() if len(row) > shortest else row.tobytes(), []).append(i)
    if len(groups) == len(unique):
        return None
    beginnings: list[Embeds] = []
    of_unique = [0] * len(unique)
    for members in groups.values():
        length = common_length([unique[i] for i in members])
        length = min(length, *(len(unique[i]) - 1 for i in members))
        for i in members:
            of_unique[i] = len(beginnings)
        beginnings.append(unique[members[0]][:length])
    return beginnings, of_unique


def common_length(rows: Sequence[Embeds]) -> int:
    """How many tokens all rows have in common from the first on."""
    shortest = min(map(len, rows))
    first = rows[0][:shortest]
    equal = np.logical_and.reduce([(row[:shortest] == first).all(axis=1) for row in rows])
    return shortest if equal.all() else int(np.argmin(equal))
