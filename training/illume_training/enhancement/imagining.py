"""A scene that shows what a caption says: what a picture of a prompt should have been."""

from __future__ import annotations

from random import Random
from typing import Final

from illume_training.evaluation.checker import see
from illume_training.evaluation.judging import caption_checks
from illume_training.world import Caption, Scene, SceneObject, render
from illume_training.world.palette import COLORS, SIZES
from illume_training.world.scene import BACKGROUNDS, place

_TRIES: Final = 400


def scene_from_caption(caption: Caption, rng: Random) -> Scene | None:
    """A random scene of the training split in which the checker finds the caption right; None if none was found."""
    for _ in range(_TRIES):
        scene = _propose(caption, rng)
        if scene is None or not scene.is_visible or scene.split != "train" or not _related(scene, caption):
            continue
        if caption_checks(see(render(scene)), caption)["all"]:
            return scene
    return None


def _propose(caption: Caption, rng: Random) -> Scene | None:
    objects: list[SceneObject] = []
    for group in caption.groups:
        for _ in range(group.count):
            color = group.color or rng.choice(tuple(COLORS))
            new = place(rng, objects, group.shape, color, group.size or rng.choice(tuple(SIZES)))
            if new is None:
                return None
            objects.append(new)
    return Scene(tuple(sorted(objects)), caption.background or rng.choice(BACKGROUNDS), caption.style)


def _related(scene: Scene, caption: Caption) -> bool:
    """Whether the relations seem to hold, before a picture is made: the checker has the last word."""
    for relation in caption.relations:
        first, second = caption.groups[relation.first], caption.groups[relation.second]
        a, b = (next(o for o in scene.objects if o in g) for g in (first, second))
        dx, dy = b.x - a.x, b.y - a.y
        if {"left": dx, "right": -dx, "above": dy, "below": -dy}[relation.word] < max(
            20, abs(dy) if relation.word in ("left", "right") else abs(dx)
        ):
            return False
    return True
