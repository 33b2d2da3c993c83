"""What a picture shows, seen without knowing what it should show: background, style and objects.

The checker knows the world's palette and shapes and nothing of any model. It finds the background that explains most
pixels, takes what differs from it for objects, and compares each one's coverage with every shape, size and drawing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_training.evaluation.segmentation import Region, grown, regions
from illume_training.world.palette import COLORS, IMAGE_SIZE, SHAPES, SIZES
from illume_training.world.render import background_picture, coverage, tinted
from illume_training.world.scene import BACKGROUNDS, Background

_COARSE: Final = 8  # pixels of a block in which backgrounds are compared
_NEAR: Final = 20.0  # colour distance within which a block is background
_FAR: Final = {False: 50.0, True: 30.0}  # in sepia or not: colour distance from which a pixel may be an object
_MIN_AREA: Final = 45  # pixels; the smallest object has 150
_HALF: Final = 32  # half the side of the window in which shapes are compared
_FINALISTS: Final = 6  # templates that are compared at every place
_MIN_LIKENESS: Final = 0.45  # below it a region is something that this world has no name for

Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SeenObject:
    """An object in a picture; `color` is None in sepia, `shape` is 'unknown' where nothing fits."""

    shape: str
    color: str | None
    size: str
    x: float
    y: float
    likeness: float  # intersection over union with the best template, 0..1


@dataclass(frozen=True, slots=True)
class SeenPicture:
    """What the checker sees."""

    background: Background
    style: str
    objects: tuple[SeenObject, ...]


def see(picture: NDArray[np.uint8]) -> SeenPicture:
    """What the picture [256, 256, 3] uint8 shows."""
    if picture.shape != (IMAGE_SIZE, IMAGE_SIZE, 3) or picture.dtype != np.uint8:
        raise ValueError(
            f"picture: got {picture.dtype} {list(picture.shape)}, expected uint8 [{IMAGE_SIZE}, {IMAGE_SIZE}, 3]"
        )
    pixels = picture.astype(np.float32)
    views = [_view(pixels, background, sepia) for background, sepia in _likely_backgrounds(pixels)]
    return max(views, key=lambda view: view[1])[0]


def _likely_backgrounds(pixels: Field) -> list[tuple[Background, bool]]:
    """The best plain and the best sepia background, the second one only where it explains nearly as much."""
    blocks = _blocks(pixels)
    distance = np.sqrt(((_background_blocks() - blocks) ** 2).sum(-1))  # [48, 32, 32]
    near = distance < _NEAR
    share = near.mean(axis=(1, 2))
    score = share - np.where(near, distance, 0).sum(axis=(1, 2)) / np.maximum(near.sum(axis=(1, 2)), 1) / 200.0
    half = len(BACKGROUNDS)
    best = [int(score[:half].argmax()), half + int(score[half:].argmax())]
    best.sort(key=lambda i: -score[i])
    chosen = [best[0]] + ([best[1]] if score[best[1]] > score[best[0]] - 0.12 else [])
    return [(BACKGROUNDS[i % half], i >= half) for i in chosen]


def _view(pixels: Field, background: Background, sepia: bool) -> tuple[SeenPicture, float]:
    """The picture seen against one background, and how well that explains it: residual colours count against it."""
    ground = background_picture(background, sepia).astype(np.float32)
    distance = np.sqrt((_smoothed(pixels - ground) ** 2).sum(-1))
    found: list[tuple[SeenObject, bool, float]] = []
    for region in regions(grown(distance > _FAR[sepia])):
        if region[2].sum() >= _MIN_AREA:
            one = _object(pixels, ground, distance, *region, sepia)
            parts = _parts(pixels, ground, *region, sepia) if one[0].shape == "unknown" else []
            found += [_object(pixels, ground, distance, *part, sepia) for part in parts] or [one]
    votes = sum(1 if outlined else -1 for _, outlined, _ in found)
    style = "sepia" if sepia else "outline" if votes > 0 else "plain"
    calm = distance[distance <= _FAR[sepia]]
    unexplained = float(calm.mean()) if calm.size else 255.0
    off = float(np.mean([error for _, _, error in found])) if found else 0.0
    return SeenPicture(background, style, tuple(o for o, _, _ in found)), -unexplained - 0.5 * off


def _parts(
    pixels: Field, ground: Field, rows: slice, columns: slice, own: NDArray[np.bool_], sepia: bool
) -> list[Region]:
    """What a region falls into where the picture is not smoothed: objects whose edges nearly touch."""
    sharp = np.sqrt(((pixels[rows, columns] - ground[rows, columns]) ** 2).sum(-1))
    return [
        (
            slice(rows.start + y.start, rows.start + y.stop),
            slice(columns.start + x.start, columns.start + x.stop),
            part,
        )
        for y, x, part in regions(own & (sharp > 2.0 * _FAR[sepia]))
        if part.sum() >= _MIN_AREA
    ]


def _object(
    pixels: Field, ground: Field, distance: Field, rows: slice, columns: slice, own: NDArray[np.bool_], sepia: bool
) -> tuple[SeenObject, bool, float]:
    """The object in one region, whether it is drawn in outline, and how far its colour is from the palette."""
    below = ground[rows, columns]
    difference = pixels[rows, columns] - below
    inside = np.where(own, distance[rows, columns], 0.0)
    strong = inside >= np.quantile(inside[own], 0.6)
    full = np.median(difference[strong], axis=0)
    alpha = (difference @ full) / max(float(full @ full), 1.0)
    alpha = np.where(own, np.clip(alpha, 0.0, 1.0), 0.0).astype(np.float32)
    fit = _best_template(alpha, rows.start, columns.start)
    known = fit.likeness >= _MIN_LIKENESS
    # Least squares over the template's coverage: the edges of a thin or blurred shape do not mix into its colour.
    weight = np.where(own, fit.coverage, 0.0) if known else strong.astype(np.float32)
    color = np.median(below[strong], axis=0) + np.tensordot(weight, difference, 2) / max(float((weight**2).sum()), 1.0)
    names = list(COLORS)
    errors = np.sqrt(((np.stack([tinted(COLORS[name], sepia) for name in names]) - color) ** 2).sum(-1))
    name = None if sepia else names[int(errors.argmin())]
    seen = SeenObject(fit.shape if known else "unknown", name, fit.size, fit.x, fit.y, fit.likeness)
    return seen, fit.outlined, float(errors.min())


@dataclass(frozen=True, slots=True)
class _Fit:
    """The template most like a region: what it is, its centre in the picture, and its coverage of the region."""

    shape: str
    size: str
    outlined: bool
    x: float
    y: float
    likeness: float
    coverage: Field


def _best_template(alpha: Field, top: int, left: int) -> _Fit:
    """The fit to a region's coverage [Y, X]; top and left are the region's corner in the picture."""
    keys, stack, areas, centres = _templates()
    side, total = stack.shape[1], float(alpha.sum())
    nothing = _Fit(*keys[0], left + alpha.shape[1] / 2, top + alpha.shape[0] / 2, 0.0, alpha)
    if max(alpha.shape) > side - 4 or total < 1.0:
        return nothing
    yy, xx = np.mgrid[: alpha.shape[0], : alpha.shape[1]]
    mass = np.array([(alpha * yy).sum(), (alpha * xx).sum()]) / total

    def likeness(index: int, y: int, x: int) -> float:
        if min(y, x) < 0 or y + alpha.shape[0] > side or x + alpha.shape[1] > side:
            return 0.0
        common = float(np.minimum(stack[index, y : y + alpha.shape[0], x : x + alpha.shape[1]], alpha).sum())
        return common / (float(areas[index]) + total - common)

    # Where the region's corner falls in the window when the centres of mass agree; the best few move by a pixel.
    corners = np.rint(_HALF + centres - mass).astype(int).tolist()
    plausible = np.flatnonzero((areas > 0.5 * total) & (areas < 2.0 * total)).tolist()
    first = sorted(((likeness(i, *corners[i]), i) for i in plausible), reverse=True)[:_FINALISTS]
    moved = ((i, corners[i][0] + dy, corners[i][1] + dx) for _, i in first for dy in (-1, 0, 1) for dx in (-1, 0, 1))
    best, index, y, x = max(((likeness(*place), *place) for place in moved), default=(0.0, 0, 0, 0))
    if best == 0.0:
        return nothing
    covered = stack[index, y : y + alpha.shape[0], x : x + alpha.shape[1]]
    return _Fit(*keys[index], float(left + _HALF - x), float(top + _HALF - y), best, covered)


def _smoothed(pixels: Field) -> Field:
    """[Y, X, C] with every pixel the mean of its 3x3 neighbours: the noise of single pixels makes no objects."""
    for axis in (0, 1):
        size = pixels.shape[axis]
        first, last = pixels.take([0], axis), pixels.take([-1], axis)
        wide = np.concatenate((first, pixels, last), axis)
        before, after = wide.take(range(size), axis), wide.take(range(2, size + 2), axis)
        pixels = (before + pixels + after) / np.float32(3)
    return pixels


@cache
def _templates() -> tuple[list[tuple[str, str, bool]], Field, Field, NDArray[np.float64]]:
    """(shape, size, outlined), windows [96, 65, 65], areas [96], and centres of mass [96, 2] from the middle.

    The second half is the first one blurred (standard deviation 1.4 pixels): a small star that was blurred is still
    more like a blurred star than like a diamond.
    """
    keys = [(shape, size, outlined) for shape in SHAPES for size in SIZES for outlined in (False, True)]
    side = 2 * _HALF + 1
    stack = np.zeros((len(keys), side, side), np.float32)
    centres = np.zeros((len(keys), 2))
    for i, (shape, size, outlined) in enumerate(keys):
        alpha = coverage(shape, size, outlined)[..., 0]
        half = alpha.shape[0] // 2
        stack[i, _HALF - half : _HALF + half + 1, _HALF - half : _HALF + half + 1] = alpha
        yy, xx = np.mgrid[-_HALF : _HALF + 1, -_HALF : _HALF + 1]
        centres[i] = (stack[i] * yy).sum() / stack[i].sum(), (stack[i] * xx).sum() / stack[i].sum()
    blurred = np.moveaxis(_smoothed(_smoothed(_smoothed(np.moveaxis(stack, 0, -1)))), -1, 0)
    both = np.concatenate((stack, blurred))
    return keys * 2, both, both.sum(axis=(1, 2)), np.concatenate((centres, centres))


@cache
def _background_blocks() -> Field:
    """[48, 32, 32, 3]: all backgrounds in plain colours, then in sepia."""
    return np.stack(
        [
            _blocks(background_picture(background, sepia).astype(np.float32))
            for sepia in (False, True)
            for background in BACKGROUNDS
        ]
    )


def _blocks(pixels: Field) -> Field:
    size = IMAGE_SIZE // _COARSE
    blocks: Field = pixels.reshape(size, _COARSE, size, _COARSE, 3).mean(axis=(1, 3))
    return blocks
