"""Vision encoder: pixels [B, 3, 256, 256] in [-1, 1] -> features [B, 64, 192], raster order.

Its role is that of UNIT in ILLUME: one encoder whose features both feed the language model and, quantized, are what
the language model draws. A stem of three convolutions has stride 32; a Vision Transformer follows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models.config import IllumeConfig
from illume_export.models.layers import Block, Mlp, RmsNorm


class VisionEncoder(nn.Module):
    """Pixels -> features of one width per 32x32 cell."""

    def __init__(self, config: IllumeConfig) -> None:
        super().__init__()
        c = config.vision_encoder
        a, b = c.stem_channels
        self.conv1 = nn.Conv2d(3, a, 8, stride=8)
        self.conv2 = nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(b, c.hidden_size, 3, stride=2, padding=1)
        self.position = nn.Parameter(torch.randn(1, config.num_patches, c.hidden_size) * 0.02)
        self.blocks = nn.ModuleList(Block(c.hidden_size, c.num_heads, c.mlp_size) for _ in range(c.num_layers))
        self.norm = nn.LayerNorm(c.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        x = F.gelu(self.conv1(pixels))  # [B, 64, 32, 32]
        x = F.gelu(self.conv2(x))  # [B, 128, 16, 16]
        x = self.conv3(x)  # [B, 192, 8, 8]
        x = x.flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.norm(x)
        return y


class Adapter(nn.Module):
    """Features [B, 64, 192] -> embeddings [B, 64, D] in the language model's width.

    The norm keeps what a cell shows as large as where it is: without, the first outgrows the second in training.
    """

    def __init__(self, config: IllumeConfig) -> None:
        super().__init__()
        width = config.language_model.hidden_size
        self.mlp = Mlp(config.vision_encoder.hidden_size, width, width)
        self.norm = RmsNorm(width, config.language_model.rms_norm_eps)
        self.position = nn.Parameter(torch.zeros(1, config.num_patches, width))  # where a cell is, features may not say

    def forward(self, features: Tensor) -> Tensor:
        y: Tensor = self.norm(self.mlp(features)) + self.position
        return y
