"""The picture that is drawn: one of 256x256, or only the first rows of both its levels where time is short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from illume_runtime.bundle import Bundle
from illume_runtime.programs import Repeat, Resolution
from illume_runtime.schedule import Schedule, schedule_from_resolution

PICTURE = "256x256"


def schedule_of(bundle: Bundle, rows: Sequence[int]) -> Schedule:
    """The compiled program of so many rows of codes in each level."""
    whole = whole_picture(bundle)
    counts = iter(rows)
    output = tuple(replace(part, count=next(counts)) if isinstance(part, Repeat) else part for part in whole.output)
    grids = tuple((count, columns) for count, (_, columns) in zip(rows, whole.grids, strict=True))
    return schedule_from_resolution(replace(whole, output=output, grids=grids), bundle.vocabulary)


def whole_picture(bundle: Bundle) -> Resolution:
    """The size in the bundle's grammar."""
    return next(size for size in bundle.grammar.image.resolutions if size.name == PICTURE)
