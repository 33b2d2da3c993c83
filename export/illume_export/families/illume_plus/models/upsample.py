"""Doubling as the UNet and the autoencoder of Stable Diffusion do it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class RepeatedUpsample(nn.Module):
    """Every place four times, then a convolution: [B, C, Y, X] -> [B, C, 2 Y, 2 X]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y
