"""Questions about a scene, each with its one answer, and the full description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from illume_training.world.palette import COLORS, SHAPES
from illume_training.world.scene import Scene, SceneObject
from illume_training.world.wording import (
    NUMBERS,
    OPPOSITES,
    background_words,
    how_big,
    how_many,
    is_there,
    lies_so,
    named,
    plural,
    region_words,
    relation_between,
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its one right answer, its kind, and the objects that show the answer, where it is in some of them.

    `against` are those that `shown_by` are compared with.
    """

    kind: str
    text: str
    answer: str
    shown_by: tuple[SceneObject, ...] = ()
    against: tuple[SceneObject, ...] = ()


def describe(scene: Scene) -> str:
    """The one full description: objects in raster order with size and colour, background, style."""
    parts = [f"a {o.size} {o.color} {o.shape}" for o in scene.objects]
    body = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    words = f"{body} on a {background_words(scene.background)} background"
    return words if scene.style == "plain" else f"{words}, {scene.style}"


def unique_objects(scene: Scene) -> list[SceneObject]:
    """Objects whose shape and colour no other object shares."""
    kinds = Counter(o.kind for o in scene.objects)
    return [o for o in scene.objects if kinds[o.kind] == 1]


def sample_question(scene: Scene, rng: Random, shares: Mapping[str, float] | None = None) -> Question:
    """A random question that has one plain answer; `shares` says how often which of QUESTION_MAKERS is asked."""
    names = tuple(shares) if shares is not None else _USUAL
    weights = tuple(shares.values()) if shares is not None else None
    while True:
        name = rng.choices(names, weights)[0] if weights else rng.choice(names)
        question = QUESTION_MAKERS[name](scene, rng)
        if question is not None:
            return question


def _named(o: SceneObject) -> str:
    return named(o.shape, o.color)


def _what(scene: Scene, rng: Random) -> Question | None:
    colors = Counter(o.color for o in scene.objects)
    alone = [o for o in scene.objects if colors[o.color] == 1]
    if not alone or scene.style == "sepia":
        return None
    o = rng.choice(alone)
    words = rng.choice((f"what is the {o.color} object?", f"what shape is {o.color}?"))
    return Question("what", words, o.shape, (o,))


def _color(scene: Scene, rng: Random) -> Question | None:
    shapes = Counter(o.shape for o in scene.objects)
    alone = [o for o in scene.objects if shapes[o.shape] == 1]
    if not alone or scene.style == "sepia":
        return None
    o = rng.choice(alone)
    words = rng.choice((f"what color is the {o.shape}?", f"which color does the {o.shape} have?"))
    return Question("color", words, o.color, (o,))


def _count(scene: Scene, rng: Random) -> Question:
    pick = rng.random()
    if pick < 0.3 or scene.style == "sepia":
        return Question("count", how_many("objects"), NUMBERS[len(scene.objects)])
    if pick < 0.7:
        shape = rng.choice(scene.objects).shape if rng.random() < 0.8 else rng.choice(SHAPES)
        counted = tuple(o for o in scene.objects if o.shape == shape)
        return Question("count", how_many(plural(shape)), NUMBERS[len(counted)], counted)
    color = rng.choice(scene.objects).color if rng.random() < 0.8 else rng.choice(tuple(COLORS))
    counted = tuple(o for o in scene.objects if o.color == color)
    return Question("count", how_many(f"{color} objects"), NUMBERS[len(counted)], counted)


def _where(scene: Scene, rng: Random) -> Question | None:
    alone = unique_objects(scene)
    if not alone or scene.style == "sepia":
        return None
    o = rng.choice(alone)
    return Question("where", f"where is {_named(o)}?", region_words(o.row, o.column), (o,))


def _exists(scene: Scene, rng: Random) -> Question | None:
    if scene.style == "sepia":
        return None
    present = {o.kind for o in scene.objects}
    if rng.random() < 0.5:
        shape, color = rng.choice(sorted(present))
        answer = "yes"
    else:
        near = rng.choice(scene.objects)
        options = [(near.shape, c) for c in COLORS] + [(s, near.color) for s in SHAPES]
        shape, color = rng.choice([kind for kind in options if kind not in present])
        answer = "no"
    shown_by = tuple(o for o in scene.objects if o.kind == (shape, color))
    return Question("yes-no", is_there(shape, color), answer, shown_by)


def _compare(scene: Scene, rng: Random) -> Question | None:
    alone = unique_objects(scene)
    if len(alone) < 2 or scene.style == "sepia":
        return None
    a, b = rng.sample(alone, 2)
    word = relation_between(a, b, rng)
    if word is None:
        return None
    asked, answer = (word, "yes") if rng.random() < 0.5 else (OPPOSITES[word], "no")
    return Question("yes-no", lies_so(_named(a), asked, _named(b)), answer, (a,), (b,))


def _size(scene: Scene, rng: Random) -> Question | None:
    alone = unique_objects(scene)
    if not alone or scene.style == "sepia":
        return None
    o = rng.choice(alone)
    return Question("size", how_big(_named(o)), o.size, (o,))


def _background(scene: Scene, rng: Random) -> Question | None:
    if scene.style == "sepia":
        return None
    words = rng.choice(("what is the background?", "which background is it?"))
    return Question("background", words, background_words(scene.background))


def _describe(scene: Scene, rng: Random) -> Question | None:
    if scene.style == "sepia":
        return None
    return Question("describe", rng.choice(("describe the picture", "what is in the picture?")), describe(scene))


QUESTION_MAKERS: Final[Mapping[str, Callable[[Scene, Random], Question | None]]] = {
    "what": _what,
    "color": _color,
    "count": _count,
    "where": _where,
    "exists": _exists,
    "compare": _compare,
    "size": _size,
    "background": _background,
    "describe": _describe,
}
_USUAL: Final = (
    "what",
    "color",
    "count",
    "count",
    "where",
    "exists",
    "exists",
    "compare",
    "size",
    "background",
    "describe",
)
