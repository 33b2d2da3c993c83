"""Captions of a scene: what a drawing is asked for with.

A caption carries what it claims (`groups`, `relations`, `background`, `style`) beside its words, so that a picture
drawn from it can be checked without reading. A caption names every object: what it does not mention is not there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations
from random import Random

from illume_training.world.palette import INNER
from illume_training.world.scene import Background, Scene, SceneObject, Split, sample_scene, with_objects
from illume_training.world.wording import (
    NUMBERS,
    OPPOSITES,
    SIZE_WORDS,
    background_words,
    plural,
    relation_between,
)


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


def caption_of(scene: Scene, rng: Random) -> Caption:
    """One of many captions of a scene, its objects in any order."""
    groups = _groups(scene, _detail(scene, rng))
    order = list(range(len(groups)))
    rng.shuffle(order)
    return _caption(scene, [groups[i] for i in order], rng, in_order=False)


def sample_drawing(rng: Random, split: Split) -> tuple[Scene, Caption]:
    """A scene and a caption that together leave open where things are drawn, and not in which order.

    What the caption names first, the eye meets first; of two things beside each other that is the left one or the upper
    one, whichever is named first. A group stands together, and the last row is empty. A model that learns from these
    draws what it is told in the order in which it is told, which serves every order, and has room to the end.
    """
    num_objects = len(sample_scene(rng, split).objects)  # crowded scenes are as frequent as they are elsewhere
    while True:
        proposed = sample_scene(rng, split, num_objects=num_objects)
        detail = _detail(proposed, rng)
        scene = _gathered(proposed, detail)
        if scene is not None and scene.split == split and all(o.row < INNER[-1] for o in scene.objects):
            return scene, _caption(scene, _groups(scene, detail), rng, in_order=True)


def _gathered(scene: Scene, detail: str) -> Scene | None:
    """The scene with its things in other places, so that each group follows the other; None where that is too close."""
    groups = _groups(scene, detail)
    things = sorted(scene.objects, key=lambda o: next(i for i, group in enumerate(groups) if o in group))
    objects = [
        replace(place, shape=thing.shape, color=thing.color, size=thing.size)
        for place, thing in zip(scene.objects, things, strict=True)
    ]
    gathered = with_objects(scene, objects)
    apart = all(a.fits_beside(b) for a, b in combinations(objects, 2))
    return gathered if apart and gathered.is_visible else None


def _detail(scene: Scene, rng: Random) -> str:
    if scene.style == "sepia":
        return "shape"  # colours cannot be told apart there, so nothing is said of them
    return rng.choices(("color", "size", "shape"), (0.6, 0.25, 0.15))[0]


def _caption(scene: Scene, groups: list[Group], rng: Random, *, in_order: bool) -> Caption:
    relations: list[Relation] = []
    phrases = [_phrase(group, rng) for group in groups]
    if len(groups) == len(scene.objects) and 2 <= len(groups) <= 3 and rng.random() < (0.9 if in_order else 0.7):
        a, b = (_only(scene, groups[i]) for i in (0, 1))
        word = relation_between(a, b, rng)
        if in_order and word not in ("left", "above"):
            word = None
        if in_order and word is not None and rng.random() < 0.5:
            groups[:2], phrases[:2], word = groups[1::-1], phrases[1::-1], OPPOSITES[word]
        if word is not None:
            relations.append(Relation(0, word, 1))
            phrases[:2] = [f"{phrases[0]} {_relation_words(word, rng)} {phrases[1]}"]
    body = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    background = scene.background if rng.random() < 0.55 and scene.style != "sepia" else None
    if background is not None:
        body += " " + _on(background, rng)
    return Caption(_opening(scene.style, rng) + body, tuple(groups), tuple(relations), background, scene.style)


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
