"""A picture to measure with: shapes on a gradient, the same on every machine, drawn here so that no file is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 256


def measuring_picture() -> Image:
    """An RGB picture of 256x256: a red disc, a blue square and a green triangle on a pale gradient."""
    from PIL import Image, ImageDraw

    rows = np.linspace(250, 200, SIZE, dtype=np.float32)[:, None, None]
    background = np.broadcast_to(rows, (SIZE, SIZE, 3)).astype(np.uint8)
    picture = Image.fromarray(background)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((30, 40, 110, 120), fill=(214, 48, 49))
    pen.rectangle((150, 60, 220, 130), fill=(9, 82, 196))
    pen.polygon([(128, 150), (80, 230), (176, 230)], fill=(0, 148, 80))
    return picture
