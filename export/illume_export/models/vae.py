"""Variational autoencoder: pixels [B, 3, 256, 256] in [-1, 1] <-> latents [B, 16, 16, 16] of unit variance.

Narrow and cheap: most of the work is done at 16x16 and 32x32, and pixels come from shuffled channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models.config import IllumeConfig


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions: [B, C, Y, X] -> [B, C, Y, X]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv2(F.gelu(self.conv1(F.gelu(x))))
        return y


class Vae(nn.Module):
    """Encoder and decoder with 16x spatial compression."""

    def __init__(self, config: IllumeConfig) -> None:
        super().__init__()
        c = config.vae
        wide, middle, narrow = c.channels
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, narrow, 3, padding=1),  # 64x64
            nn.GELU(),
            nn.Conv2d(narrow, middle, 4, stride=2, padding=1),  # 32x32
            ResidualBlock(middle),
            nn.GELU(),
            nn.Conv2d(middle, wide, 4, stride=2, padding=1),  # 16x16
            ResidualBlock(wide),
            nn.GELU(),
            nn.Conv2d(wide, 2 * c.latent_channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(c.latent_channels, wide, 3, padding=1),  # 16x16
            ResidualBlock(wide),
            nn.Conv2d(wide, 4 * middle, 1),
            nn.PixelShuffle(2),  # 32x32
            ResidualBlock(middle),
            nn.Conv2d(middle, 4 * narrow, 1),
            nn.PixelShuffle(2),  # 64x64
            ResidualBlock(narrow),
            nn.GELU(),
            nn.Conv2d(narrow, 48, 3, padding=1),
            nn.PixelShuffle(4),  # 256x256
        )
        self.register_buffer("latent_mean", torch.zeros(1, c.latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(1, c.latent_channels, 1, 1))
        self.latent_mean: Tensor
        self.latent_std: Tensor

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the raw latents, each [B, 16, 16, 16]."""
        mean, log_var = self.encoder(pixels).chunk(2, dim=1)
        return mean, log_var.clamp(-20.0, 10.0)

    def decode_raw(self, raw: Tensor) -> Tensor:
        """Pixels from raw latents."""
        y: Tensor = self.decoder(raw)
        return y

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of unit variance."""
        return (self.moments(pixels)[0] - self.latent_mean) / self.latent_std

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, 256, 256] from latents of unit variance."""
        return self.decode_raw(latents * self.latent_std + self.latent_mean)
