"""Pictures to compare stages on: discs and boxes over gradients, drawn without a model or a file."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def drawn_pictures(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Pictures [count, size, size, 3] uint8; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        picture = Image.fromarray(corners).resize((size, size), Image.Resampling.BILINEAR)
        draw = ImageDraw.Draw(picture)
        for _ in range(int(rng.integers(1, 6))):
            x, y = (int(n) for n in rng.integers(0, size, 2))
            radius = int(rng.integers(size // 16, size // 4))
            color = tuple(int(n) for n in rng.integers(0, 256, 3))
            shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
            shape((x - radius, y - radius, x + radius, y + radius), fill=color)
        pictures.append(np.asarray(picture))
    return np.stack(pictures)
