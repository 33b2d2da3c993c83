"""What prompts have in common, so that it is computed once: among the rows of a batch, and with prompts that are kept.

Kept are prompts that are the model's own, as the unconditional side of a drawing is: one for each size, whatever the
user says. Their keys and values are copied where they are needed, and prompts that begin alike begin with them.

Shapes: T tokens, D width, K key-value heads, E head width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

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

    The rows are grouped so that the fewest tokens are computed: several questions about each of several pictures that
    begin alike share their own picture, not what all pictures have in common. Each beginning is shorter than the rows
    that have it.
    """
    groups = _cheapest_groups(unique, shortest)
    if len(groups) == len(unique):
        return None
    beginnings: list[Embeds] = []
    of_unique = [0] * len(unique)
    for members, length in groups:
        for i in members:
            of_unique[i] = len(beginnings)
        beginnings.append(unique[members[0]][:length])
    return beginnings, of_unique


def _cheapest_groups(unique: Sequence[Embeds], shortest: int) -> list[tuple[list[int], int]]:
    """Rows that are to share a beginning, with its length; in sorted order, where rows that begin alike stand together.

    By dynamic programming over where the last group of the first so many rows begins.
    """
    order = sorted(range(len(unique)), key=lambda i: unique[i].tobytes())
    most = [len(unique[i]) - 1 for i in order]  # tokens that a beginning may have
    common = [common_length((unique[a], unique[b])) for a, b in pairwise(order)]
    tokens = [0]  # computed for the first so many rows
    last: list[tuple[int, int]] = []  # of their last group: its first row and what it shares
    for end in range(len(order)):
        shared, tails, choices = most[end], 0, []
        for first in range(end, -1, -1):
            if first < end:
                shared = min(shared, most[first], common[first])
                if shared < shortest:
                    break
            tails += most[first] + 1
            choices.append((tokens[first] + tails - (end - first) * shared, first, shared))
        best, first, shared = min(choices)
        tokens.append(best)
        last.append((first, shared))
    groups = []
    end = len(order)
    while end:
        first, shared = last[end - 1]
        groups.append((order[first:end], shared))
        end = first
    return groups


def common_length(rows: Sequence[Embeds]) -> int:
    """How many tokens all rows have in common from the first on."""
    shortest = min(map(len, rows))
    first = rows[0][:shortest]
    equal = np.logical_and.reduce([(row[:shortest] == first).all(axis=1) for row in rows])
    return shortest if equal.all() else int(np.argmin(equal))
