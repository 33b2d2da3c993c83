"""Sizes that an engine is built for: smallest, usual and largest of every named dimension, from the grammar."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from illume_runtime.bundle import Bundle
from illume_runtime.errors import ExportError
from illume_runtime.limits import MAX_DRAW_BATCH
from illume_runtime.manifest import StageSpec

Shapes = dict[str, list[list[int]]]
Range = tuple[int, int, int]
DECODE_TOKENS = 4  # at most: a sampled token with the forced ones before it
MAX_ROWS = 8  # of a batch: pictures that are decoded at once
USUAL_PREFILL = 64


def profiles_from_stage(bundle: Bundle, stage: StageSpec) -> list[Shapes]:
    """One profile; two for the decoder: prefill, then decode. Raises ExportError for a dimension that is unknown."""
    ranges = _ranges(bundle)
    if stage.name != "decoder":
        return [_profile(stage, ranges)]
    rows = (1, 2, 2 * MAX_DRAW_BATCH)  # guidance doubles a batch
    longest = bundle.model.max_context
    prefill = {"B": rows, "T": (1, min(USUAL_PREFILL, longest), longest)}
    decode = {"B": rows, "T": (1, 1, min(DECODE_TOKENS, longest))}
    return [_profile(stage, ranges | part) for part in (prefill, decode)]


def _ranges(bundle: Bundle) -> dict[str, Range]:
    grids = [resolution.grids for resolution in bundle.grammar.image.resolutions]
    steps = bundle.scheduler
    slots = bundle.model.max_context
    found = {"B": (1, 2, MAX_ROWS), "S": (slots, slots, slots), "K": (1, steps.default_steps, steps.max_steps)}
    for name, sizes in (
        ("M", [prod(grid[0]) for grid in grids]),
        ("Y", [grid[-1][0] for grid in grids]),
        ("X", [grid[-1][1] for grid in grids]),
    ):
        found[name] = (min(sizes), sorted(sizes)[len(sizes) // 2], max(sizes))
    return found


def _profile(stage: StageSpec, ranges: Mapping[str, Range]) -> Shapes:
    found: Shapes = {}
    for port in stage.inputs:
        if all(isinstance(dim, int) for dim in port.shape):
            continue
        found[port.name] = [[_size(stage.name, dim, ranges, k) for dim in port.shape] for k in range(3)]
    return found


def _size(stage: str, dim: int | str, ranges: Mapping[str, Range], k: int) -> int:
    if isinstance(dim, int):
        return dim
    factor, _, name = dim.rpartition("*")
    if name not in ranges or not (factor == "" or factor.isdigit()):
        raise ExportError(f"{stage}: no sizes are known for the dimension {dim!r}; known are {', '.join(ranges)}")
    return int(factor or 1) * ranges[name][k]
