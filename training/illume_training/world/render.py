"""Pictures of scenes: [256, 256, 3] uint8, edges antialiased by the exact distance to the outline."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_training.world.palette import COLORS, IMAGE_SIZE, SIZES, TONES
from illume_training.world.scene import Background, Scene

_OUTLINE: Final = 4.0  # pixels
_SEPIA: Final = np.array([1.0, 0.82, 0.58])  # tint of white
_LUMA: Final = np.array([0.299, 0.587, 0.114])  # BT.601


def render(scene: Scene, mask: tuple[int, int, int] | None = None) -> NDArray[np.uint8]:
    """The picture of `scene`; `mask` = (left, top, side) in pixels covers a square with a checkerboard."""
    sepia = scene.style == "sepia"
    picture = background_picture(scene.background, sepia).copy()
    for o in scene.objects:
        alpha = coverage(o.shape, o.size, scene.style == "outline")
        side = alpha.shape[0] // 2
        window = picture[o.y - side : o.y + side + 1, o.x - side : o.x + side + 1]
        window[:] = np.rint(window + alpha * (tinted(COLORS[o.color], sepia) - window))
    if mask is not None:
        left, top, side = mask
        y0, x0 = max(top, 0), max(left, 0)
        hidden = picture[y0 : max(top + side, 0), x0 : max(left + side, 0)]
        yy, xx = np.mgrid[y0 : y0 + hidden.shape[0], x0 : x0 + hidden.shape[1]]
        hidden[:] = np.where((yy // 8 + xx // 8) % 2 == 0, 90, 170)[..., None]
    return picture


def tinted(rgb: tuple[int, int, int], sepia: bool) -> NDArray[np.float32]:
    """The colour [3] as a picture shows it, 0..255."""
    color = np.array(rgb, np.float64)
    return (_SEPIA * (_LUMA @ color) if sepia else color).astype(np.float32)


@cache
def background_picture(background: Background, sepia: bool) -> NDArray[np.uint8]:
    """[256, 256, 3] without objects; shared, so copy it before drawing."""
    first = tinted(TONES[background.first], sepia)
    second = tinted(TONES[background.second or background.first], sepia)
    ramp = np.linspace(0.0, 1.0, IMAGE_SIZE, dtype=np.float32)[:, None]
    line = first + ramp * (second - first)  # [256, 3]
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    grid = line[:, None] if background.direction == "down" else line[None]
    return np.broadcast_to(np.rint(grid), shape).astype(np.uint8)


@cache
def coverage(shape: str, size: str, outline: bool) -> NDArray[np.float32]:
    """Share of each pixel that the shape covers, [2 r + 5, 2 r + 5, 1], centred."""
    radius = SIZES[size]
    half = radius + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    distance = _distance(shape, x / radius, y / radius) * radius
    alpha = np.clip(0.5 - distance, 0.0, 1.0)
    if outline:
        alpha = alpha - np.clip(0.5 - (distance + _OUTLINE), 0.0, 1.0)
    return alpha[..., None].astype(np.float32)


def _distance(shape: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed distance to the outline of a shape of radius 1 (negative inside); y points down."""
    if shape == "circle":
        return np.hypot(x, y) - 0.96
    if shape == "moon":
        return np.maximum(np.hypot(x, y) - 1.0, 0.78 - np.hypot(x - 0.5, y))
    return _polygon_distance(_OUTLINES[shape], x, y)


def _polygon_distance(
    points: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Signed distance to a closed polygon [n, 2]: nearest edge, sign by the even-odd rule."""
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        nearest = np.minimum(nearest, np.hypot(x - ax - t * ex, y - ay - t * ey))
        if ey != 0.0:
            crosses = (ay <= y) != (by <= y)
            inside ^= crosses & (x < ax + (y - ay) / ey * ex)
    return np.where(inside, -nearest, nearest)


def _outlines() -> dict[str, NDArray[np.float64]]:
    turn = 2.0 * np.pi * np.arange(10) / 10 - np.pi / 2
    reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    t = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)
    heart_x = 16 * np.sin(t) ** 3
    heart_y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    a, b = 0.92, 0.32
    return {
        "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
        "triangle": np.array([(0.0, -0.95), (0.92, 0.7), (-0.92, 0.7)]),
        "diamond": np.array([(0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)]),
        "star": np.stack((reach * np.cos(turn), reach * np.sin(turn)), axis=-1),
        "heart": np.stack((heart_x, heart_y - 2.5), axis=-1) / 17.0,
        "cross": np.array(
            [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)]
        ),
    }


_OUTLINES: Final = _outlines()
