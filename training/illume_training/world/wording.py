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


def named(shape: str, color: str | None) -> str:
    """One thing that is spoken of; None: its colour is not said."""
    return f"the {color} {shape}" if color else f"the {shape}"


def how_many(things: str) -> str:
    """The question for a number."""
    return f"how many {things} are there?"


def is_there(shape: str, color: str) -> str:
    """The question whether there is such a thing."""
    return f"is there {'an' if color[0] in 'aeiou' else 'a'} {color} {shape}?"


def how_big(thing: str) -> str:
    """The question for a size."""
    return f"how big is {thing}?"


def lies_so(first: str, word: str, second: str) -> str:
    """The question whether one thing lies to another as the word of a relation says."""
    return f"is {first} {f'{word} of' if word in ('left', 'right') else word} {second}?"
