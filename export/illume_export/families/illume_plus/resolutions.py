"""The twelve sizes of pictures, in the order in which the nearest one is looked for; the last is never it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PictureSize:
    """A size in pixels, its coarse grid [rows, columns], and the number by which the diffusion decoder knows it."""

    width: int
    height: int
    coarse: tuple[int, int]
    size_id: int

    @property
    def name(self) -> str:
        """Width x height."""
        return f"{self.width}x{self.height}"


FINE_STRIDE = 16  # pixels per code of the fine level
SIZES = (
    PictureSize(512, 512, (18, 18), 0),
    PictureSize(512, 384, (12, 16), 2),
    PictureSize(384, 512, (16, 12), 1),
    PictureSize(768, 384, (13, 26), 8),
    PictureSize(384, 768, (26, 13), 7),
    PictureSize(576, 384, (12, 18), 10),
    PictureSize(384, 576, (18, 12), 9),
    PictureSize(960, 320, (11, 33), 6),
    PictureSize(320, 960, (33, 11), 5),
    PictureSize(1024, 256, (9, 36), 4),
    PictureSize(256, 1024, (36, 9), 3),
    PictureSize(256, 256, (9, 9), 11),
)
ANCHORS = SIZES[:-1]
