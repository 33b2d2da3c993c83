"""A picture as a vision transformer takes it: patches and the rotary tables of their places.

The four patches of one feature are neighbours: order (row, column, row within, column within) of merged blocks. A patch
is one frame; the graph has both frames of its weights added up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from illume_runtime.errors import UsageError
from illume_runtime.manifest import AnySizePreprocessing, PatchSpec
from illume_runtime.resizing import antialiased, resized

Pixels = NDArray[np.float32]


def any_size(size: tuple[int, int], spec: AnySizePreprocessing) -> tuple[int, int]:
    """The (width, height) to which a picture of any (width, height) is resized. Raises UsageError for a strip."""
    width, height = size
    step = spec.multiple
    w, h = (round(length / step) * step for length in size)  # halves go to the even multiple
    area = width * height
    if w * h > spec.max_pixels:
        scale = np.sqrt(area / spec.max_pixels)
        w, h = (int(np.floor(length / scale / step)) * step for length in size)
    elif w * h < spec.min_pixels:
        scale = np.sqrt(spec.min_pixels / area)
        w, h = (int(np.ceil(length * scale / step)) * step for length in size)
    if min(w, h) < step or max(w, h) > spec.max_side:
        raise UsageError(
            f"the picture has {width}x{height} pixels, which become {w}x{h}; expected sides of {step} to "
            f"{spec.max_side}: it is too narrow, crop it"
        )
    return w, h


def nearest_anchor(size: tuple[int, int], anchors: dict[str, tuple[int, int]]) -> str:
    """The name of the anchor (width, height) nearest in width / height; of equals the one nearest in size."""
    width, height = size

    def distance(name: str) -> tuple[float, float]:
        w, h = anchors[name]
        return abs(width / height - w / h), float(np.hypot(width - w, height - h))

    return min(anchors, key=distance)


def merged_grid(size: tuple[int, int], spec: PatchSpec) -> tuple[int, int]:
    """Rows and columns of features of a picture (width, height) that no resolution fixes: what fits, at least one."""
    width, height = size
    stride = spec.size * spec.merge
    return max(height // stride, 1), max(width // stride, 1)


def patches_of(pixels: Pixels, grid: tuple[int, int], spec: PatchSpec) -> Pixels:
    """Patches [P, 3 size^2] float32 of pixels [3, Y, X] in [-1, 1], resized to a grid of [rows, columns] features."""
    rows, columns = grid
    size, merge = spec.size, spec.merge
    height, width = (n * size * merge for n in grid)
    _, Y, X = pixels.shape
    unit = (pixels + np.float32(1)) / np.float32(2)
    scaled = np.clip(resized(unit, antialiased(Y, height), antialiased(X, width)), 0, 1)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (spec.mean, spec.std))
    blocks = ((scaled - mean) / std).reshape(3, rows, merge, size, columns, merge, size)
    ordered = blocks.transpose(1, 4, 2, 5, 0, 3, 6)  # rows, columns, merge, merge, 3, size, size
    return np.ascontiguousarray(ordered.reshape(-1, 3 * size * size), np.float32)


def patch_rope(table: NDArray[np.float32], grid: tuple[int, int], merge: int) -> tuple[Pixels, Pixels]:
    """Cosines and sines [P, E / 2] of the patches of a grid of [rows, columns] features, in the order of `patches_of`.

    `table` [2, S, E / 4] holds those of one axis by place; the first half of a patch's are those of its row. `merge` 1
    gives the features themselves, in raster order. Raises UsageError for a grid beyond the table.
    """
    rows, columns = grid
    if max(rows, columns) * merge > table.shape[1]:
        raise UsageError(
            f"the picture has {rows}x{columns} features, expected at most {table.shape[1] // merge} a side"
        )
    within = np.arange(merge)
    row = np.arange(rows)[:, None, None, None] * merge + within[:, None]
    column = np.arange(columns)[None, :, None, None] * merge + within
    places = [np.broadcast_to(axis, (rows, columns, merge, merge)).ravel() for axis in (row, column)]
    cos, sin = (np.concatenate([part[place] for place in places], axis=1) for part in table)
    return cos, sin
