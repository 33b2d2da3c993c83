"""Denoiser: noisy latents [B, 16, 16, 16], time [B], code map [B, 32, 8, 8] -> velocity [B, 16, 16, 16].

A diffusion transformer (Peebles and Xie, 2023) for a rectified flow (Liu et al., 2022): x_t = (1 - t) data + t noise,
velocity = noise - data. A token is a 2x2 patch of latents, which is just the cell of one code; the code's vector is
concatenated to it. One modulation network serves all blocks (PixArt-alpha's adaLN-single).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models.config import IllumeConfig
from illume_export.models.layers import Mlp, SelfAttention


class ModulatedBlock(nn.Module):
    """Transformer block whose norms are shifted, scaled and gated by the time."""

    def __init__(self, width: int, num_heads: int, mlp_size: int) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(6, width) * 0.02)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = SelfAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = Mlp(width, mlp_size)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """New x [B, T, D] from x and the shared modulation [B, 6, D]."""
        m = (modulation + self.modulation)[:, :, None]
        x = x + m[:, 2] * self.attention(self.norm1(x) * (1 + m[:, 1]) + m[:, 0])
        y: Tensor = x + m[:, 5] * self.mlp(self.norm2(x) * (1 + m[:, 4]) + m[:, 3])
        return y


class Denoiser(nn.Module):
    """Velocity of the flow at (latents, time) given the codes; a code map of zeros stands for 'no condition'."""

    def __init__(self, config: IllumeConfig) -> None:
        super().__init__()
        c = config.denoiser
        self.patch_channels = 4 * config.vae.latent_channels
        self.width = c.hidden_size
        self.inp = nn.Linear(self.patch_channels + config.image_tokenizer.code_dim, c.hidden_size)
        self.position = nn.Parameter(torch.randn(1, config.num_patches, c.hidden_size) * 0.02)
        half = c.time_channels // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half).float()
        self.register_buffer("rates", rates, persistent=False)
        self.rates: Tensor
        self.time = Mlp(c.time_channels, c.hidden_size, c.hidden_size)
        self.modulate = nn.Linear(c.hidden_size, 6 * c.hidden_size)
        self.blocks = nn.ModuleList(ModulatedBlock(c.hidden_size, c.num_heads, c.mlp_size) for _ in range(c.num_layers))
        self.norm = nn.LayerNorm(c.hidden_size)
        self.out = nn.Linear(c.hidden_size, self.patch_channels)

    def forward(self, latents: Tensor, time: Tensor, code_map: Tensor) -> Tensor:
        B = latents.shape[0]
        angles = 1000.0 * time[:, None] * self.rates
        t = F.silu(self.time(torch.cat((angles.cos(), angles.sin()), dim=-1)))
        modulation = self.modulate(t).view(B, 6, self.width)
        patches = F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)  # [B, 64, 4C]
        x = self.inp(torch.cat((patches, code_map.flatten(2).transpose(1, 2)), dim=-1)) + self.position
        for block in self.blocks:
            x = block(x, modulation)
        y = self.out(self.norm(x)).transpose(1, 2)
        grid = (latents.shape[2] // 2, latents.shape[3] // 2)
        return F.pixel_shuffle(y.reshape(B, self.patch_channels, *grid), 2)
