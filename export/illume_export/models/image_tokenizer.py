"""Semantic image tokenizer: features [B, 64, C] -> codes [B, 8, 8] -> reconstructed features [B, 64, C].

As in ILLUME, what is quantized and reconstructed are the vision encoder's features and not the pixels. The codebook
is compared by cosine: unit vectors on both sides, so that the nearest code is the largest product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models.config import IllumeConfig
from illume_export.models.layers import Block


class ImageTokenizer(nn.Module):
    """Quantizer and feature decoder."""

    def __init__(self, config: IllumeConfig) -> None:
        super().__init__()
        c, v = config.image_tokenizer, config.vision_encoder
        self.grid_size = config.grid_size
        self.project = nn.Linear(v.hidden_size, c.code_dim)
        self.codebook = nn.Parameter(F.normalize(torch.randn(c.codebook_size, c.code_dim), dim=-1))
        self.register_buffer("code_color", torch.zeros(c.codebook_size, 3))  # mean colour of a code's cell, 0..255
        self.code_color: Tensor
        self.expand = nn.Linear(c.code_dim, v.hidden_size)
        self.position = nn.Parameter(torch.randn(1, config.num_patches, v.hidden_size) * 0.02)
        self.blocks = nn.ModuleList(Block(v.hidden_size, v.num_heads, v.mlp_size) for _ in range(c.decoder_layers))
        self.norm = nn.LayerNorm(v.hidden_size)
        self.out = nn.Linear(v.hidden_size, v.hidden_size)

    def code_vectors(self) -> Tensor:
        """Unit code vectors [codes, code_dim]: what the denoiser is conditioned on."""
        return F.normalize(self.codebook, dim=-1)

    def vectors(self, features: Tensor) -> Tensor:
        """Unit vectors [B, 64, code_dim] of features, before quantization."""
        return F.normalize(self.project(features), dim=-1)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index [B, 64] of the nearest code; the lowest of equals."""
        return (vectors @ self.code_vectors().T).argmax(dim=-1)

    def encode(self, features: Tensor) -> Tensor:
        """Codes [B, 8, 8] int64 of features [B, 64, C]."""
        return self.nearest(self.vectors(features)).view(-1, self.grid_size, self.grid_size)

    def code_map(self, codes: Tensor) -> Tensor:
        """Code vectors [B, code_dim, 8, 8] of codes [B, 8, 8]."""
        return self.code_vectors()[codes].permute(0, 3, 1, 2)

    def decode(self, vectors: Tensor) -> Tensor:
        """Features [B, 64, C] from code vectors [B, 64, code_dim]."""
        x = self.expand(vectors) + self.position
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.out(self.norm(x))
        return y
