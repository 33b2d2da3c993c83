"""Captions of a scene: what a drawing is asked for with.

A caption carries what it claims (`groups`, `relations`, `background`, `style`) beside its words, so that a picture
drawn from it can be checked without reading. A caption names every object: what it does not mention is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from illume_training.world.scene import Background, Scene, SceneObject
from illume_training.world.wording import (
    NUMBERS,
    OPPOSITES,
    RELATION_WORDS,
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
    groups = groups_of(scene, sample_detail(scene, rng))
    order = list(range(len(groups)))
    rng.shuffle(order)
    return caption_of_groups(scene, [groups[i] for i in order], rng)


def are_single(scene: Scene, groups: Sequence[Group]) -> bool:
    """Whether the groups are two or three things, each alone: then it can be said how the first two lie."""
    return len(groups) == len(scene.objects) and 2 <= len(groups) <= 3


def sample_detail(scene: Scene, rng: Random) -> str:
    """How much a caption says of each thing: its shape; its colour too ('color'); its size too ('size')."""
    if scene.style == "sepia":
        return "shape"  # colours cannot be told apart there, so nothing is said of them
    return rng.choices(("color", "size", "shape"), (0.6, 0.25, 0.15))[0]


def groups_of(scene: Scene, detail: str) -> list[Group]:
    """What a caption counts together, in reading order of the first of each."""
    if detail == "shape":
        return [Group(n, shape) for shape, n in Counter(o.shape for o in scene.objects).items()]
    if detail == "color":
        return [Group(n, shape, color) for (shape, color), n in Counter(o.kind for o in scene.objects).items()]
    counts = Counter((o.shape, o.color, o.size) for o in scene.objects)
    return [Group(n, shape, color, size) for (shape, color, size), n in counts.items()]


def caption_of_groups(
    scene: Scene, groups: list[Group], rng: Random, *, related: float = 0.7, turned: float = 0.0
) -> Caption:
    """A caption that names the groups in this order.

    `related`: chance that it says how the first two lie to each other, where each is one thing; `turned`: chance that
    it then names the second first.
    """
    relations: list[Relation] = []
    phrases = [_phrase(group, rng) for group in groups]
    if are_single(scene, groups) and rng.random() < related:
        a, b = (_only(scene, groups[i]) for i in (0, 1))
        word = relation_between(a, b, rng)
        if word is not None and turned and rng.random() < turned:
            groups[:2], phrases[:2], word = groups[1::-1], phrases[1::-1], OPPOSITES[word]
        if word is not None:
            relations.append(Relation(0, word, 1))
            phrases[:2] = [f"{phrases[0]} {_relation_words(word, rng)} {phrases[1]}"]
    body = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    background = scene.background if rng.random() < 0.55 and scene.style != "sepia" else None
    if background is not None:
        body += " " + _on(background, rng)
    return Caption(_opening(scene.style, rng) + body, tuple(groups), tuple(relations), background, scene.style)


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
    return rng.choice(RELATION_WORDS[word])


def _on(background: Background, rng: Random) -> str:
    name = background_words(background)
    return rng.choice((f"on a {name} background", f"on {name}", f"with a {name} background"))


def _opening(style: str, rng: Random) -> str:
    if style == "outline":
        return rng.choice(("an outline drawing of ", "outlines of "))
    if style == "sepia":
        return rng.choice(("a sepia picture of ", "in sepia, "))
    return rng.choice(("", "", "", "a picture of ", "draw ", "an image with "))
