"""Sizes that an engine is built for: smallest, usual and largest of every named dimension, from the grammar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from illume_runtime.bundle import Bundle
from illume_runtime.detokenizing import PICTURES_AT_ONCE
from illume_runtime.errors import ExportError, UsageError
from illume_runtime.manifest import StageSpec
from illume_runtime.programs import Resolution

Shapes = dict[str, list[list[int]]]
Range = tuple[int, int, int]
DECODE_TOKENS = 4  # at most: a sampled token with the forced ones before it
USUAL_PREFILL = 64
DEFAULT_BATCH = 4
GUIDED = ("decoder", "denoiser")  # whose rows guidance doubles
PIXELS = ("vae_decoder", "vq_decoder")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the engines are to serve: `batch` pictures at once, of these resolutions; none named means all."""

    batch: int = DEFAULT_BATCH
    resolutions: tuple[str, ...] = ()


def profiles_from_stage(bundle: Bundle, stage: StageSpec, wanted: Wanted) -> list[Shapes]:
    """One profile; two for the decoder: prefill, then decode.

    Raises ExportError for a dimension that is unknown, UsageError for a resolution that is.
    """
    ranges = _ranges(bundle, stage.name, wanted)
    if stage.name != "decoder":
        return [_profile(stage, ranges)]
    longest = bundle.model.max_context
    prefill = {"T": (1, min(USUAL_PREFILL, longest), longest)}
    decode = {"T": (1, 1, min(DECODE_TOKENS, longest))}
    return [_profile(stage, ranges | part) for part in (prefill, decode)]


def _resolutions(bundle: Bundle, wanted: Wanted) -> list[Resolution]:
    known = {resolution.name: resolution for resolution in bundle.grammar.image.resolutions}
    unknown = [name for name in wanted.resolutions if name not in known]
    if unknown:
        raise UsageError(f"--resolutions: {bundle.name} draws no {unknown[0]!r}; it draws {', '.join(known)}")
    return [known[name] for name in wanted.resolutions or known]


def _ranges(bundle: Bundle, stage: str, wanted: Wanted) -> dict[str, Range]:
    grids = [resolution.grids for resolution in _resolutions(bundle, wanted)]
    steps = bundle.scheduler
    slots = bundle.model.max_context
    rows = (1, 2, 2 * wanted.batch) if stage in GUIDED else (1, 1, wanted.batch)
    if stage in PIXELS:
        rows = (1, 1, min(wanted.batch, PICTURES_AT_ONCE))
    found = {"B": rows, "S": (slots, slots, slots), "K": (1, steps.default_steps, steps.max_steps)}
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
