"""Full descriptions, read back: what they claim, whatever the order in which they claim it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from illume_training.world.palette import COLORS, SHAPES, SIZES

_WHOLE: Final = re.compile(r"(.+) on a (.+) background(?:, (outline|sepia))?")
_OBJECT: Final = re.compile(f"a ({'|'.join(SIZES)}) ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})")


@dataclass(frozen=True, slots=True)
class Description:
    """Objects as (size, colour, shape), sorted; the background's name; the style."""

    objects: tuple[tuple[str, str, str], ...]
    background: str
    style: str


def description_from_text(text: str) -> Description | None:
    """What a full description claims; None if it is none."""
    whole = _WHOLE.fullmatch(text.strip())
    if whole is None:
        return None
    objects = []
    for words in re.split(", | and ", whole[1]):
        found = _OBJECT.fullmatch(words)
        if found is None:
            return None
        objects.append((found[1], found[2], found[3]))
    return Description(tuple(sorted(objects)), whole[2], whole[3] or "plain")
