"""Edits: a source scene, an instruction, and the scene that should come out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final

from illume_training.world.palette import COLORS, IMAGE_SIZE, INNER, SIZES
from illume_training.world.questions import unique_objects
from illume_training.world.scene import BACKGROUNDS, Scene, Split, place, sample_kind, sample_scene, with_objects
from illume_training.world.wording import background_words, region_words

EDIT_KINDS: Final = ("remove", "recolor", "background", "add", "complete", "style")
_MASK_SIDES: Final = (72, 56, 44)  # pixels


@dataclass(frozen=True, slots=True)
class Edit:
    """An instruction that turns `source` (under `mask`, if any) into `target`."""

    kind: str
    text: str
    source: Scene
    target: Scene
    mask: tuple[int, int, int] | None = None


def sample_edit(rng: Random, split: Split, kind: str | None = None) -> Edit:
    """A random edit whose source and target both belong to `split`."""
    makers = {
        "remove": _remove,
        "recolor": _recolor,
        "background": _background,
        "add": _add,
        "complete": _complete,
        "style": _style,
    }
    chosen = kind or rng.choice(EDIT_KINDS)
    while True:
        source = sample_scene(rng, split, style=None if chosen == "complete" else "plain")
        edit = makers[chosen](source, rng)
        if edit is not None and edit.target.split == split and edit.target.is_visible:
            return edit


def sample_settled_edit(rng: Random, split: Split, kind: str) -> Edit:
    """As `sample_edit`, but what is added stands in the first cell of its region in which there is room for it.

    The words leave open which cell that is. A model that learns from these adds at that cell or not at all, instead of
    with some chance at each.
    """
    while True:
        edit = sample_edit(rng, split, kind)
        if kind != "add":
            return edit
        (new,) = set(edit.target.objects) - set(edit.source.objects)
        region = region_words(new.row, new.column)
        cells = [(row, column) for row in INNER for column in INNER if region_words(row, column) == region]
        moved = (replace(new, row=row, column=column) for row, column in cells)
        first = next(o for o in moved if all(o.fits_beside(old) for old in edit.source.objects))
        target = with_objects(edit.source, [*edit.source.objects, first])
        if target.split == split and target.is_visible:
            return replace(edit, target=target)


def _remove(scene: Scene, rng: Random) -> Edit | None:
    alone = unique_objects(scene)
    if not alone or len(scene.objects) < 2:
        return None
    o = rng.choice(alone)
    words = rng.choice((f"remove the {o.color} {o.shape}", f"take away the {o.color} {o.shape}"))
    return Edit("remove", words, scene, with_objects(scene, [p for p in scene.objects if p != o]))


def _recolor(scene: Scene, rng: Random) -> Edit | None:
    alone = unique_objects(scene)
    if not alone:
        return None
    o = rng.choice(alone)
    color = rng.choice([c for c in COLORS if c != o.color])
    words = rng.choice((f"make the {o.color} {o.shape} {color}", f"paint the {o.color} {o.shape} {color}"))
    changed = [replace(p, color=color) if p == o else p for p in scene.objects]
    return Edit("recolor", words, scene, with_objects(scene, changed))


def _background(scene: Scene, rng: Random) -> Edit:
    new = rng.choice([b for b in BACKGROUNDS[:8] if b != scene.background])
    if rng.random() < 0.3:
        new = rng.choice([b for b in BACKGROUNDS[8:] if b != scene.background])
    words = f"change the background to {background_words(new)}"
    return Edit("background", words, scene, Scene(scene.objects, new, scene.style))


def _add(scene: Scene, rng: Random) -> Edit | None:
    if len(scene.objects) > 5:
        return None
    shape, color = sample_kind(rng, held_out=False)
    size = rng.choice(tuple(SIZES))
    new = place(rng, list(scene.objects), shape, color, size)
    if new is None:
        return None
    words = f"add a {size} {color} {shape} at the {region_words(new.row, new.column)}"
    return Edit("add", words, scene, with_objects(scene, [*scene.objects, new]))


def _complete(scene: Scene, rng: Random) -> Edit | None:
    o = rng.choice(scene.objects)
    sides = [(dx, dy, side) for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)) for side in _MASK_SIDES]
    rng.shuffle(sides)
    for dx, dy, side in sides:
        left = o.x + (dx - 1) * side // 2 + 3 * dx
        top = o.y + (dy - 1) * side // 2 + 3 * dy
        if left < 0 or top < 0 or left + side > IMAGE_SIZE or top + side > IMAGE_SIZE:
            continue
        if side < 2 * o.radius - 4 or any(
            _touches(p.x, p.y, p.radius, left, top, side) for p in scene.objects if p != o
        ):
            continue
        words = rng.choice(("complete the masked part", "fill in the masked part"))
        return Edit("complete", words, scene, scene, (left, top, side))
    return None


def _style(scene: Scene, rng: Random) -> Edit:
    style = rng.choice(("outline", "sepia"))
    words = {
        "outline": ("turn it into an outline drawing", "keep only the outlines"),
        "sepia": ("make it sepia", "turn it into a sepia picture"),
    }[style]
    return Edit("style", rng.choice(words), scene, Scene(scene.objects, scene.background, style))


def _touches(x: int, y: int, radius: int, left: int, top: int, side: int) -> bool:
    near_x, near_y = min(max(x, left), left + side), min(max(y, top), top + side)
    return (x - near_x) ** 2 + (y - near_y) ** 2 < (radius + 2) ** 2
