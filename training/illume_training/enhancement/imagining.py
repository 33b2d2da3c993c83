"""A scene that shows what a caption says: what a picture of a prompt should have been."""

from __future__ import annotations

from random import Random
from typing import Final

from illume_training.evaluation.checker import see
from illume_training.evaluation.judging import caption_checks
from illume_training.world import Caption, Scene, drawing_of, render

_TRIES: Final = 400


def scene_from_caption(caption: Caption, rng: Random) -> Scene | None:
    """A random scene of the training split, settled as drawings are taught, in which the checker finds the caption
    right; None if none was found.
    """
    for _ in range(_TRIES):
        scene = drawing_of(caption, rng)
        if scene is not None and scene.split == "train" and caption_checks(see(render(scene)), caption)["all"]:
            return scene
    return None
