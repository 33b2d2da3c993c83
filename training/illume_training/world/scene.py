"""Scenes: what is in a picture, before it is drawn or spoken of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from illume_training.world.palette import (
    CELL,
    COLORS,
    GRADIENTS,
    HELD_OUT,
    IMAGE_SIZE,
    INNER,
    JITTER,
    SHAPES,
    SIZES,
    STYLES,
    TONES,
)

Split = Literal["train", "validation", "test", "held_out"]
MIN_CONTRAST: Final = 30  # of brightness, 0..255
_GAP: Final = 6  # pixels kept free between two objects


@dataclass(frozen=True, slots=True, order=True)
class SceneObject:
    """One shape. `row`, `column` is its cell; `dx`, `dy` is the offset of its centre from the cell's, in pixels."""

    row: int
    column: int
    shape: str
    color: str
    size: str
    dx: int = 0
    dy: int = 0

    @property
    def x(self) -> int:
        """Centre in pixels from the left."""
        return self.column * CELL + CELL // 2 + self.dx

    @property
    def y(self) -> int:
        """Centre in pixels from the top."""
        return self.row * CELL + CELL // 2 + self.dy

    @property
    def radius(self) -> int:
        """Radius of the circle around the shape, in pixels."""
        return SIZES[self.size]

    @property
    def kind(self) -> tuple[str, str]:
        """Shape and colour."""
        return self.shape, self.color

    def fits_beside(self, other: SceneObject) -> bool:
        """Whether the two neither touch nor share a cell."""
        if (self.row, self.column) == (other.row, other.column):
            return False
        reach = self.radius + other.radius + _GAP
        return (self.x - other.x) ** 2 + (self.y - other.y) ** 2 >= reach**2


@dataclass(frozen=True, slots=True)
class Background:
    """One tone, or a gradient from `first` to `second` downwards or rightwards."""

    first: str
    second: str | None = None
    direction: Literal["down", "right"] = "down"

    def lumas_under(self, o: SceneObject) -> tuple[float, float]:
        """Brightness 0..255 at the two ends of the ground that an object covers."""
        first, second = (_luma(TONES[tone]) for tone in (self.first, self.second or self.first))
        centre = o.y if self.direction == "down" else o.x
        ends = ((centre + side * o.radius) / IMAGE_SIZE for side in (-1, 1))
        low, high = (first + end * (second - first) for end in ends)
        return low, high


BACKGROUNDS: Final = (
    *(Background(tone) for tone in TONES),
    *(Background(a, b, direction) for a, b in GRADIENTS for direction in ("down", "right")),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects in raster order of their cells, on a background, in a style."""

    objects: tuple[SceneObject, ...]
    background: Background
    style: str = "plain"

    @property
    def fingerprint(self) -> int:
        """Number of what the scene holds and where, whatever the style and the jitter: what the splits are made by."""
        cells = [(o.row, o.column, o.shape, o.color, o.size) for o in self.objects]
        digest = hashlib.sha256(repr((cells, self.background.first, self.background.second)).encode()).digest()
        return int.from_bytes(digest[:8], "little")

    @property
    def is_visible(self) -> bool:
        """Whether every object stands out: in sepia only its brightness can make it."""
        if self.style != "sepia":
            return True
        return all(
            abs(_luma(COLORS[o.color]) - luma) >= MIN_CONTRAST
            for o in self.objects
            for luma in self.background.lumas_under(o)
        )

    @property
    def split(self) -> Split:
        """The only split that may hold this scene."""
        if any(o.kind in HELD_OUT for o in self.objects):
            return "held_out"
        bucket = self.fingerprint % 20
        return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def with_objects(scene: Scene, objects: list[SceneObject]) -> Scene:
    """The scene with other objects, sorted into raster order."""
    return Scene(tuple(sorted(objects)), scene.background, scene.style)


def place(rng: Random, objects: list[SceneObject], shape: str, color: str, size: str) -> SceneObject | None:
    """A new object at a free random place beside `objects`; None if 60 tries found none."""
    for _ in range(60):
        new = SceneObject(
            rng.choice(INNER),
            rng.choice(INNER),
            shape,
            color,
            size,
            rng.randint(-JITTER, JITTER),
            rng.randint(-JITTER, JITTER),
        )
        if all(new.fits_beside(old) for old in objects):
            return new
    return None


def sample_kind(rng: Random, *, held_out: bool) -> tuple[str, str]:
    """A random (shape, colour), of the held-out pairs or of the others."""
    if held_out:
        return rng.choice(sorted(HELD_OUT))
    while True:
        kind = rng.choice(SHAPES), rng.choice(tuple(COLORS))
        if kind not in HELD_OUT:
            return kind


def sample_scene(rng: Random, split: Split, *, num_objects: int | None = None, style: str | None = None) -> Scene:
    """A random scene of `split`, with 1 to 6 objects, some of them alike."""
    while True:
        scene = _propose(rng, split, num_objects or rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6)), style)
        if scene is not None and scene.split == split:
            return scene


def _propose(rng: Random, split: Split, count: int, style: str | None) -> Scene | None:
    objects: list[SceneObject] = []
    kinds: list[tuple[str, str]] = [sample_kind(rng, held_out=split == "held_out")]
    alike = rng.random() < 0.35
    same_size = rng.choice(tuple(SIZES)) if alike else None
    while len(objects) < count:
        if objects and not (alike and rng.random() < 0.6):
            kinds.append(sample_kind(rng, held_out=False))
        shape, color = kinds[-1]
        new = place(rng, objects, shape, color, same_size or rng.choice(tuple(SIZES)))
        if new is None:
            return None  # too crowded
        objects.append(new)
    chosen = style or rng.choices(STYLES, (0.84, 0.08, 0.08))[0]
    background = rng.choice(BACKGROUNDS[:8]) if rng.random() < 0.6 else rng.choice(BACKGROUNDS[8:])
    scene = Scene(tuple(sorted(objects)), background, chosen)
    return scene if scene.is_visible else None


def _luma(rgb: tuple[int, int, int]) -> float:
    """Brightness 0..255 (BT.601)."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
