"""Vision encoder pretraining: every 32x32 cell says what is in it.

The encoder has the role that UNIT has in ILLUME, and like it is trained with supervision before anything else. Per cell
a linear probe reads: the shape, colour and size of the object whose centre lies there, its offset, the style, the
background, and whether the cell is masked. Under a mask the labels are those of the whole scene.
"""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models import VisionEncoderConfig
from illume_training.world import Scene, Split, render, sample_edit, sample_scene
from illume_training.world.palette import CELL, COLORS, GRID, JITTER, SHAPES, SIZES, STYLES
from illume_training.world.scene import BACKGROUNDS

# Columns of the label array, and the number of classes of each.
CLASSES = {
    "shape": 1 + len(SHAPES),  # 0: no centre in this cell
    "color": len(COLORS),
    "size": len(SIZES),
    "style": len(STYLES),
    "background": len(BACKGROUNDS),
    "masked": 2,
}
_COLORS = {name: i for i, name in enumerate(COLORS)}
_SIZES = {name: i for i, name in enumerate(SIZES)}
_BACKGROUNDS = {background: i for i, background in enumerate(BACKGROUNDS)}


class CellProbe(nn.Module):
    """Linear probe: features [B, 64, C] -> one logit tensor per attribute, and offsets [B, 64, 2]."""

    def __init__(self, config: VisionEncoderConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, sum(CLASSES.values()) + 2)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        parts = self.linear(features).float().split([*CLASSES.values(), 2], dim=-1)
        return dict(zip([*CLASSES, "offset"], parts, strict=True))


def cell_labels(scene: Scene, mask: tuple[int, int, int] | None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Classes [64, 6] in the order of CLASSES (-100: does not apply) and offsets [64, 2] in units of JITTER."""
    labels = np.zeros((GRID, GRID, len(CLASSES)), np.int64)
    labels[..., 1:3] = -100
    labels[..., 3] = STYLES.index(scene.style)
    labels[..., 4] = _BACKGROUNDS[scene.background]
    offsets = np.zeros((GRID, GRID, 2), np.float32)
    for o in scene.objects:
        color = -100 if scene.style == "sepia" else _COLORS[o.color]
        labels[o.row, o.column, :3] = 1 + SHAPES.index(o.shape), color, _SIZES[o.size]
        offsets[o.row, o.column] = o.dx / JITTER, o.dy / JITTER
    if mask is not None:
        left, top, side = mask
        centres = np.arange(GRID) * CELL + CELL // 2
        rows = (centres >= top) & (centres < top + side)
        columns = (centres >= left) & (centres < left + side)
        labels[..., 5] = rows[:, None] & columns[None]
    return labels.reshape(-1, len(CLASSES)), offsets.reshape(-1, 2)


def pixels_from_pictures(pictures: NDArray[np.uint8]) -> Tensor:
    """[B, 256, 256, 3] uint8 -> [B, 3, 256, 256] float32 in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def sample_pictures(
    rng: Random, split: Split, count: int, style_shares: tuple[float, float, float] | None = None
) -> tuple[list[Scene], list[tuple[int, int, int] | None]]:
    """Scenes and their masks: one in ten is partly masked, the others have the styles' shares (None: the world's)."""
    scenes: list[Scene] = []
    masks: list[tuple[int, int, int] | None] = []
    for _ in range(count):
        if rng.random() < 0.1:
            edit = sample_edit(rng, split, "complete")
            scenes.append(edit.source)
            masks.append(edit.mask)
        else:
            style = rng.choices(STYLES, style_shares)[0] if style_shares else None
            scenes.append(sample_scene(rng, split, style=style))
            masks.append(None)
    return scenes, masks


def vision_batch(
    seed: str, split: Split, count: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]:
    """Pictures, classes and offsets of `count` scenes."""
    scenes, masks = sample_pictures(Random(seed), split, count)
    pairs = list(zip(scenes, masks, strict=True))
    labels = [cell_labels(scene, mask) for scene, mask in pairs]
    return (
        np.stack([render(scene, mask) for scene, mask in pairs]),
        np.stack([classes for classes, _ in labels]),
        np.stack([offsets for _, offsets in labels]),
    )


def probe_loss(outputs: dict[str, Tensor], classes: Tensor, offsets: Tensor) -> Tensor:
    """Sum of the cross entropies; cells with an object count as much as all the others together."""
    present = classes[..., 0] > 0
    loss = F.cross_entropy(outputs["shape"][present], classes[..., 0][present])
    loss = loss + F.cross_entropy(outputs["shape"][~present], classes[..., 0][~present])
    for column, name in enumerate(CLASSES):
        if name != "shape":
            loss = loss + F.cross_entropy(
                outputs[name].flatten(0, 1), classes[..., column].flatten(), ignore_index=-100
            )
    return loss + 0.3 * (outputs["offset"] - offsets)[present].square().mean()
