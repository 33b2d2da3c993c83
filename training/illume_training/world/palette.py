"""Names and numbers of the world: shapes, colours, sizes, backgrounds, styles."""

from __future__ import annotations

from typing import Final

IMAGE_SIZE: Final = 256
CELL: Final = 32  # pixels; an object's centre lies in a cell of its own
GRID: Final = IMAGE_SIZE // CELL
INNER: Final = range(1, GRID - 1)  # rows and columns in which centres lie
JITTER: Final = 4  # pixels around the centre of the cell

SHAPES: Final = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "moon")
COLORS: Final = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (250, 215, 30),
    "green": (40, 165, 60),
    "cyan": (30, 190, 200),
    "blue": (40, 85, 220),
    "purple": (140, 50, 180),
    "pink": (250, 120, 180),
}
SIZES: Final = {"small": 11, "medium": 17, "large": 25}  # radius in pixels
TONES: Final = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "gray": (130, 130, 130),
    "cream": (250, 240, 205),
    "mint": (195, 240, 210),
    "sky": (185, 222, 250),
    "lavender": (215, 205, 245),
    "navy": (20, 30, 80),
}
GRADIENTS: Final = (
    ("white", "gray"),
    ("sky", "white"),
    ("navy", "sky"),
    ("black", "navy"),
    ("cream", "mint"),
    ("lavender", "white"),
    ("mint", "sky"),
    ("gray", "black"),
)
STYLES: Final = ("plain", "outline", "sepia")

# Pairs that no training scene holds: the measure of generalisation.
HELD_OUT: Final = frozenset(
    {
        ("heart", "green"),
        ("star", "cyan"),
        ("moon", "red"),
        ("cross", "yellow"),
        ("diamond", "pink"),
        ("triangle", "purple"),
    }
)
