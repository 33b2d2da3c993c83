"""Connected regions of a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Region = tuple[slice, slice, NDArray[np.bool_]]  # rows, columns, and the region's own mask within them


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask [Y, X] with its four neighbours' pixels added."""
    result = mask.copy()
    result[1:] |= mask[:-1]
    result[:-1] |= mask[1:]
    result[:, 1:] |= mask[:, :-1]
    result[:, :-1] |= mask[:, 1:]
    return result


def regions(mask: NDArray[np.bool_]) -> list[Region]:
    """Connected regions of mask [Y, X].

    Works on horizontal runs: runs of neighbouring rows that touch are united (union-find).
    """
    runs: list[tuple[int, int, int]] = []  # row, first column, column behind the last
    parent: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above: list[int] = []
    for y, row in enumerate(mask):
        if not row.any():
            above = []
            continue
        edges = np.flatnonzero(np.diff(np.concatenate(([False], row, [False])).astype(np.int8)))
        here: list[int] = []
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            index = len(runs)
            runs.append((y, start, stop))
            parent.append(index)
            here.append(index)
            for other in above:
                if runs[other][1] < stop and start < runs[other][2]:
                    parent[root(other)] = root(index)
        above = here
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for i, run in enumerate(runs):
        groups.setdefault(root(i), []).append(run)
    return [_region(group) for group in groups.values()]


def _region(runs: list[tuple[int, int, int]]) -> Region:
    top, bottom = runs[0][0], runs[-1][0] + 1
    left, right = min(run[1] for run in runs), max(run[2] for run in runs)
    own = np.zeros((bottom - top, right - left), bool)
    for y, start, stop in runs:
        own[y - top, start - left : stop - left] = True
    return slice(top, bottom), slice(left, right), own
