"""Words that captions, questions and edits share."""

from __future__ import annotations

from random import Random
from typing import Final

from illume_training.world.scene import Background, SceneObject

NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six")
SIZE_WORDS: Final = {"small": ("small", "little", "tiny"), "medium": ("medium",), "large": ("large", "big")}
RELATION_WORDS: Final = {
    "left": ("left",),
    "right": ("right",),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPPOSITES: Final = {"left": "right", "right": "left", "above": "below", "below": "above"}
_MARGIN: Final = 20  # pixels by which two centres must differ to be called left or above


def relation_between(a: SceneObject, b: SceneObject, rng: Random) -> str | None:
    """A word that is plainly true of a against b, or None."""
    words = []
    dx, dy = b.x - a.x, b.y - a.y
    if abs(dx) >= _MARGIN and abs(dx) >= abs(dy):
        words.append("left" if dx > 0 else "right")
    if abs(dy) >= _MARGIN and abs(dy) >= abs(dx):
        words.append("above" if dy > 0 else "below")
    return rng.choice(words) if words else None


def background_words(background: Background) -> str:
    """Name of a background."""
    if background.second is None:
        return background.first
    way = "top to bottom" if background.direction == "down" else "left to right"
    return f"{background.first} to {background.second} from {way}"


def region_words(row: int, column: int) -> str:
    """One of nine regions, by the cell."""
    vertical = ("top", "middle", "bottom")[(row - 1) // 2]
    horizontal = ("left", "center", "right")[(column - 1) // 2]
    return "center" if (vertical, horizontal) == ("middle", "center") else f"{vertical} {horizontal}"


def plural(shape: str) -> str:
    """The word for several."""
    return shape + ("es" if shape == "cross" else "s")
