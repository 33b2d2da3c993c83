"""Scenes to learn drawing from, with their captions: what the words leave open is settled as far as it can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Final

from illume_training.world.captions import Caption, are_single, caption_of_groups, groups_of, sample_detail
from illume_training.world.palette import COLORS, INNER
from illume_training.world.scene import BACKGROUNDS, Scene, SceneObject, Split, place, sample_scene, with_objects

_RELATED: Final = 0.9  # of the captions that can say how two things lie to each other


def drawing_of(caption: Caption, rng: Random) -> Scene | None:
    """A random scene that a caption of its kind would have in `sample_drawing`; None if these places do not do."""
    order = list(range(len(caption.groups)))
    for relation in caption.relations:  # between the first two, one object each
        if relation.word in ("right", "below"):
            order[:2] = order[1::-1]
    groups = [caption.groups[i] for i in order]
    things: list[SceneObject] = []
    for group in groups:
        for _ in range(group.count):
            color = group.color or rng.choice(tuple(COLORS))
            thing = place(rng, things, group.shape, color, group.size or "medium")
            if thing is None:
                return None
            things.append(thing)
    scene = Scene(tuple(sorted(things)), caption.background or rng.choice(BACKGROUNDS), caption.style)
    scene = _in_order(scene, things)
    if caption.relations:
        scene = _aligned(scene, caption.relations[0].word in ("left", "right"))
    return scene if _is_drawable(scene) else None


def sample_drawing(rng: Random, split: Split) -> tuple[Scene, Caption]:
    """A scene and a caption that together leave open where things are drawn, and in no other way how.

    - What the caption names first, the eye meets first; of two things beside each other that is the left one or the
      upper one, whichever is named first. A group stands together.
    - Two things beside each other stand in one row or in one column.
    - Where no size is said, it is medium.
    - The last row is empty, so that a drawing that is late has room to the end.

    A model that learns from these draws what it is told in the order in which it is told, which serves every caption.
    """
    num_objects = len(sample_scene(rng, split).objects)  # crowded scenes are as frequent as they are elsewhere
    while True:
        proposed = sample_scene(rng, split, num_objects=num_objects)
        detail = sample_detail(proposed, rng)
        related = are_single(proposed, groups_of(proposed, detail)) and rng.random() < _RELATED
        scene = _settled(proposed, detail)
        if related:
            scene = _aligned(scene, rng.random() < 0.5)
            a, b = scene.objects[:2]
            if a.row != b.row and a.column != b.column:
                continue  # a third thing has come between them
        if _is_drawable(scene) and scene.split == split:
            groups = groups_of(scene, detail)
            return scene, caption_of_groups(scene, groups, rng, related=float(related), turned=0.5)


def _settled(scene: Scene, detail: str) -> Scene:
    """The scene with its things in other places, so that one group follows the other, and in sizes that are said."""
    groups = groups_of(scene, detail)
    things = sorted(scene.objects, key=lambda o: next(i for i, group in enumerate(groups) if o in group))
    return _in_order(scene, [thing if detail == "size" else replace(thing, size="medium") for thing in things])


def _in_order(scene: Scene, things: Sequence[SceneObject]) -> Scene:
    """The scene with these things, one after the other as the eye meets them, in the places that it has."""
    there = zip(scene.objects, things, strict=True)
    objects = [replace(old, shape=thing.shape, color=thing.color, size=thing.size) for old, thing in there]
    return with_objects(scene, objects)


def _is_drawable(scene: Scene) -> bool:
    """Whether all things can be seen and stand apart, the last row empty."""
    apart = all(a.fits_beside(b) for a, b in combinations(scene.objects, 2))
    return apart and all(o.row < INNER[-1] for o in scene.objects) and scene.is_visible


def _aligned(scene: Scene, in_a_row: bool) -> Scene:
    """The scene with its second thing in the row, or in the column, of the first; the order may change."""
    first, second = scene.objects[:2]
    moved = replace(second, row=first.row) if in_a_row else replace(second, column=first.column)
    return with_objects(scene, [first, moved, *scene.objects[2:]])
