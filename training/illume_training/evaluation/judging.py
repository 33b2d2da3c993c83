"""What a seen picture does right: against a scene object by object, against a caption dimension by dimension."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from illume_training.evaluation.checker import SeenObject, SeenPicture
from illume_training.world import Caption, Group, Relation, Scene, SceneObject
from illume_training.world.palette import CELL
from illume_training.world.render import background_picture
from illume_training.world.scene import Background
from illume_training.world.wording import background_words, region_words

_PLACE: Final = CELL / 2  # pixels by which a centre may be off: it stays in its cell
_REGION_SLACK: Final = 8  # pixels by which an added object may leave its region
_MARGIN: Final = 20  # pixels between two centres that make a relation plain, as captions have it
_SLACK: Final = 4  # pixels of error allowed in both
_LOOKALIKE: Final = 12.0  # mean colour distance under which two sepia backgrounds are one


def scene_faults(seen: SeenPicture, scene: Scene, added: SceneObject | None = None) -> list[str]:
    """What differs between the picture and the scene, in words; empty: all is right.

    Shape, colour, size, style and background must agree, and every centre must lie within half a cell of its own.
    `added` is an object of the scene of whose place only the region was said.
    """
    faults = []
    if seen.style != scene.style:
        faults.append(f"style: {seen.style}, not {scene.style}")
    if not _same_background(seen.background, scene.background, seen.style == scene.style == "sepia"):
        faults.append(f"background: {background_words(seen.background)}, not {background_words(scene.background)}")
    left = list(seen.objects)
    missing = []
    for o in sorted(scene.objects, key=lambda o: o == added):  # the added one takes what the others leave
        fits = [s for s in left if _same_kind(s, o, seen.style) and _in_place(s, o, o == added)]
        if fits:
            left.remove(min(fits, key=lambda s: _distance(s, o)))
        else:
            missing.append(o)
    for o in missing:
        near = min((s for s in left if _distance(s, o) <= _PLACE), key=lambda s: _distance(s, o), default=None)
        if near is None:
            faults.append(f"no {o.size} {o.color} {o.shape} at {o.x},{o.y}")
        else:
            left.remove(near)
            faults.append(f"{object_words(near)}, not {o.size} {o.color} {o.shape}")
    return faults + [f"a stray {object_words(s)} at {s.x:.0f},{s.y:.0f}" for s in left]


def caption_checks(seen: SeenPicture, caption: Caption) -> dict[str, bool]:
    """Right or wrong in each dimension that the caption states, and in 'all': the dimensions and every count.

    - object: the shapes in the picture are those named, no other.
    - count: stated by a number above one; then as many of every shape as said.
    - color, size: for every shape named, the picture has it in the colours (sizes) said and in no other.
    - spatial: each relation holds between the objects that it names.
    """
    objects, groups = seen.objects, caption.groups
    checks = {"object": {o.shape for o in objects} == {g.shape for g in groups}}
    if any(g.count > 1 for g in groups):
        checks["count"] = Counter(o.shape for o in objects) == _counts(groups)
    if any(g.color for g in groups):
        checks["color"] = all(
            {o.color for o in objects if o.shape == g.shape} == {h.color for h in groups if h.shape == g.shape}
            for g in groups
        )
    if caption.relations:
        checks["spatial"] = all(relation_seen(r, groups, objects) == r.word for r in caption.relations)
    if any(g.size for g in groups):
        checks["size"] = all(
            {o.size for o in objects if o.shape == g.shape} == {h.size for h in groups if h.shape == g.shape}
            for g in groups
        )
    if caption.background is not None:
        checks["background"] = seen.background == caption.background
    if caption.style != "plain":
        checks["style"] = seen.style == caption.style
    said = {(g.shape, g.color, g.size): g.count for g in groups}
    shown = Counter(_kind_said(o, groups) for o in objects)
    checks["all"] = all(checks.values()) and dict(shown) == said and seen.style == caption.style
    return checks


def picture_words(seen: SeenPicture) -> str:
    """What the checker sees, in words."""
    objects = ", ".join(f"{object_words(o)} at {o.x:.0f},{o.y:.0f}" for o in seen.objects) or "nothing"
    return f"{objects} on {background_words(seen.background)}, {seen.style}"


def object_words(o: SeenObject) -> str:
    """Size, colour and shape."""
    return " ".join(word for word in (o.size, o.color, o.shape) if word)


def _same_kind(s: SeenObject, o: SceneObject, style: str) -> bool:
    return (s.shape, s.size) == (o.shape, o.size) and (style == "sepia" or s.color == o.color)


def _in_place(s: SeenObject, o: SceneObject, anywhere_in_region: bool) -> bool:
    if not anywhere_in_region:
        return _distance(s, o) <= _PLACE
    shifts = (-_REGION_SLACK, 0, _REGION_SLACK)
    region = region_words(o.row, o.column)
    return any(region_words(_cell(s.y + dy), _cell(s.x + dx)) == region for dy in shifts for dx in shifts)


def _cell(pixel: float) -> int:
    """The row or column of a centre, kept among those in which objects lie."""
    return min(max(int(pixel // CELL), 1), 6)


def _distance(s: SeenObject, o: SceneObject) -> float:
    return float(np.hypot(s.x - o.x, s.y - o.y))


def _same_background(a: Background, b: Background, sepia: bool) -> bool:
    """In sepia several tones look alike: there the look decides."""
    if a == b or not sepia:
        return a == b
    shown = (background_picture(background, sepia=True).astype(np.float32) for background in (a, b))
    return float(np.sqrt(((next(shown) - next(shown)) ** 2).sum(-1)).mean()) < _LOOKALIKE


def _counts(groups: Sequence[Group]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for g in groups:
        counts[g.shape] += g.count
    return counts


def _kind_said(o: SeenObject, groups: Sequence[Group]) -> tuple[str, str | None, str | None]:
    """The object as the caption would name it: without what the caption leaves open."""
    says_color, says_size = any(g.color for g in groups), any(g.size for g in groups)
    return o.shape, o.color if says_color else None, o.size if says_size else None


def objects_meant(group: Group, groups: Sequence[Group], objects: Sequence[SeenObject]) -> list[SeenObject]:
    """The objects that the caption would name as this one of its groups."""
    return [o for o in objects if _kind_said(o, groups) == (group.shape, group.color, group.size)]


def relation_seen(relation: Relation, groups: Sequence[Group], objects: Sequence[SeenObject]) -> str | None:
    """How the first lies to the second, as the relation's word has it if it can; None: in no way, or one is missing."""
    first, second = (objects_meant(groups[i], groups, objects) for i in (relation.first, relation.second))
    if not first or not second:
        return None
    words = (relation.word, "left", "right", "above", "below")
    return next((word for word in words if all(_lies(a, word, b) for a in first for b in second)), None)


def _lies(a: SeenObject, word: str, b: SeenObject) -> bool:
    """Whether a is left of, right of, above or below b: along that axis more than across it."""
    dx, dy = b.x - a.x, b.y - a.y
    along, across = {"left": (dx, dy), "right": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[word]
    return along >= _MARGIN - _SLACK and along >= abs(across) - _SLACK
