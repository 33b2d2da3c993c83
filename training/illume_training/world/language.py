"""What can be said of a scene: captions for drawing, questions with answers, and full descriptions.

A caption carries what it claims (`groups`, `relations`, `background`, `style`) beside its words, so that a picture
drawn from it can be checked without reading. A caption names every object: what it does not mention is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from illume_training.world.palette import COLORS, SHAPES
from illume_training.world.scene import Background, Scene, SceneObject

NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six")
SIZE_WORDS: Final = {"small": ("small", "little", "tiny"), "medium": ("medium",), "large": ("large", "big")}
_MARGIN: Final = 20  # pixels by which two centres must differ to be called left or above


@dataclass(frozen=True, slots=True)
class Group:
    """`count` objects of one shape; None: the caption does not say."""

    count: int
    shape: str
    color: str | None = None
    size: str | None = None

    def __contains__(self, o: SceneObject) -> bool:
        return o.shape == self.shape and self.color in (None, o.color) and self.size in (None, o.size)


@dataclass(frozen=True, slots=True)
class Relation:
    """Group `first` is `word` ('left', 'right', 'above', 'below') of group `second`."""

    first: int
    word: str
    second: int


@dataclass(frozen=True, slots=True)
class Caption:
    """Words, and what they claim."""

    text: str
    groups: tuple[Group, ...]
    relations: tuple[Relation, ...]
    background: Background | None
    style: str


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


def caption_of(scene: Scene, rng: Random, *, in_reading_order: bool = False) -> Caption:
    """One of many captions of a scene: its objects in any order, or in the order in which the eye meets them.

    A relation may turn the first two round. A model that learns from captions in reading order draws what it is told
    in the order in which it is told, which serves every order.
    """
    sepia = scene.style == "sepia"  # colours cannot be told apart there, so nothing is said of them
    detail = "shape" if sepia else rng.choices(("color", "size", "shape"), (0.6, 0.25, 0.15))[0]
    groups = _groups(scene, detail)
    order = list(range(len(groups)))
    if not in_reading_order:
        rng.shuffle(order)
    groups = [groups[i] for i in order]
    relations: list[Relation] = []
    phrases = [_phrase(group, rng) for group in groups]
    if len(groups) == len(scene.objects) and 2 <= len(groups) <= 3 and rng.random() < 0.7:
        if in_reading_order and rng.random() < 0.5:
            groups[:2], phrases[:2] = groups[1::-1], phrases[1::-1]
        a, b = (_only(scene, groups[i]) for i in (0, 1))
        word = relation_between(a, b, rng)
        if word is not None:
            relations.append(Relation(0, word, 1))
            phrases[:2] = [f"{phrases[0]} {_relation_words(word, rng)} {phrases[1]}"]
    body = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    background = scene.background if rng.random() < 0.55 and not sepia else None
    if background is not None:
        body += " " + _on(background, rng)
    return Caption(_opening(scene.style, rng) + body, tuple(groups), tuple(relations), background, scene.style)


def describe(scene: Scene) -> str:
    """The one full description: objects in raster order with size and colour, background, style."""
    parts = [f"a {o.size} {o.color} {o.shape}" for o in scene.objects]
    body = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    words = f"{body} on a {background_words(scene.background)} background"
    return words if scene.style == "plain" else f"{words}, {scene.style}"


def region_words(row: int, column: int) -> str:
    """One of nine regions, by the cell."""
    vertical = ("top", "middle", "bottom")[(row - 1) // 2]
    horizontal = ("left", "center", "right")[(column - 1) // 2]
    return "center" if (vertical, horizontal) == ("middle", "center") else f"{vertical} {horizontal}"


def plural(shape: str) -> str:
    """The word for several."""
    return shape + ("es" if shape == "cross" else "s")


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


def _groups(scene: Scene, detail: str) -> list[Group]:
    if detail == "shape":
        return [Group(n, shape) for shape, n in Counter(o.shape for o in scene.objects).items()]
    if detail == "color":
        return [Group(n, shape, color) for (shape, color), n in Counter(o.kind for o in scene.objects).items()]
    counts = Counter((o.shape, o.color, o.size) for o in scene.objects)
    return [Group(n, shape, color, size) for (shape, color, size), n in counts.items()]


def _only(scene: Scene, group: Group) -> SceneObject:
    return next(o for o in scene.objects if o in group)


def _phrase(group: Group, rng: Random) -> str:
    words = [rng.choice(SIZE_WORDS[group.size])] if group.size else []
    words += [group.color] if group.color else []
    words.append(plural(group.shape) if group.count > 1 else group.shape)
    if group.count > 1:
        return " ".join([NUMBERS[group.count], *words])
    article = "one" if rng.random() < 0.1 else "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words])


def _relation_words(word: str, rng: Random) -> str:
    if word in ("left", "right"):
        return rng.choice((f"to the {word} of", f"{word} of"))
    return rng.choice({"above": ("above", "over"), "below": ("below", "under")}[word])


def _on(background: Background, rng: Random) -> str:
    name = background_words(background)
    return rng.choice((f"on a {name} background", f"on {name}", f"with a {name} background"))


def _opening(style: str, rng: Random) -> str:
    if style == "outline":
        return rng.choice(("an outline drawing of ", "outlines of "))
    if style == "sepia":
        return rng.choice(("a sepia picture of ", "in sepia, "))
    return rng.choice(("", "", "", "a picture of ", "draw ", "an image with "))


def _named(o: SceneObject) -> str:
    return f"the {o.color} {o.shape}"


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
        return Question("count", "how many objects are there?", NUMBERS[len(scene.objects)])
    if pick < 0.7:
        shape = rng.choice(scene.objects).shape if rng.random() < 0.8 else rng.choice(SHAPES)
        counted = tuple(o for o in scene.objects if o.shape == shape)
        return Question("count", f"how many {plural(shape)} are there?", NUMBERS[len(counted)], counted)
    color = rng.choice(scene.objects).color if rng.random() < 0.8 else rng.choice(tuple(COLORS))
    counted = tuple(o for o in scene.objects if o.color == color)
    return Question("count", f"how many {color} objects are there?", NUMBERS[len(counted)], counted)


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
    article = "an" if color[0] in "aeiou" else "a"
    shown_by = tuple(o for o in scene.objects if o.kind == (shape, color))
    return Question("yes-no", f"is there {article} {color} {shape}?", answer, shown_by)


def _compare(scene: Scene, rng: Random) -> Question | None:
    alone = unique_objects(scene)
    if len(alone) < 2 or scene.style == "sepia":
        return None
    a, b = rng.sample(alone, 2)
    word = relation_between(a, b, rng)
    if word is None:
        return None
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[word]
    asked, answer = (word, "yes") if rng.random() < 0.5 else (opposite, "no")
    joined = f"{asked} of" if asked in ("left", "right") else asked
    return Question("yes-no", f"is {_named(a)} {joined} {_named(b)}?", answer, (a,), (b,))


def _size(scene: Scene, rng: Random) -> Question | None:
    alone = unique_objects(scene)
    if not alone or scene.style == "sepia":
        return None
    o = rng.choice(alone)
    return Question("size", f"how big is {_named(o)}?", o.size, (o,))


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
