"""Vision tokenizer with two levels: what a picture shows (semantic) and how it looks (pixel), each with a codebook.

The names of parameters are those of its checkpoints; the decoder of semantic features, which serves training alone, is
left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.families.illume_plus.config import TokenizerConfig
from illume_export.families.illume_plus.models.movq import MovqDecoder, MovqEncoder
from illume_export.families.illume_plus.models.vision_transformer import EPS, VisionTransformer, VitBlock


class SemanticBlocks(nn.Module):
    """The vision transformer, and blocks behind it that lead to the width of a code."""

    def __init__(self, c: TokenizerConfig) -> None:
        super().__init__()
        s = c.semantic
        self.model = VisionTransformer(c.vit)
        self.proj_in = nn.Conv2d(c.vit.out_size, s.width, 1)
        self.blocks = nn.ModuleList(VitBlock(s.width, s.num_heads, 4 * s.width) for _ in range(s.num_blocks))
        self.proj_out = nn.Sequential(nn.Linear(s.width, s.code_dim))

    def forward(self, patches: Tensor, cos: Tensor, sin: Tensor, merged_cos: Tensor, merged_sin: Tensor) -> Tensor:
        """Vectors [M, code_dim]; the merged tables [M, E' / 2] are in raster order of the merged grid."""
        x = self.model(patches, cos, sin)
        x = F.layer_norm(x, (x.shape[-1],), eps=EPS)
        x = F.linear(x, self.proj_in.weight.flatten(1), self.proj_in.bias)
        for block in self.blocks:
            x = block(x, merged_cos, merged_sin)
        y: Tensor = self.proj_out(x)
        return y


class SimVq(nn.Module):
    """Codebook that is a fixed table times one learned matrix (Zhu et al., SimVQ, 2024)."""

    def __init__(self, num_codes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("frozen_codebook", torch.randn(num_codes, dim))
        self.code_transform = nn.Linear(dim, dim, bias=False)
        self.frozen_codebook: Tensor

    def codebook(self) -> Tensor:
        """The vectors [K, dim] of all codes."""
        y: Tensor = self.code_transform(self.frozen_codebook)
        return y

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index [N] of the code nearest to each of the vectors [N, dim]; the lowest of equals."""
        return torch.cdist(vectors[None], self.codebook()[None])[0].argmin(dim=-1)


class DualViTok(nn.Module):
    """Pixels <-> codes of two levels, one picture at a time."""

    def __init__(self, c: TokenizerConfig) -> None:
        super().__init__()
        z = c.pixel_encoder.z_channels
        both = c.pixel_decoder.z_channels
        self.semantic_encoder = SemanticBlocks(c)
        self.semantic_quantizer = SimVq(c.num_codes[0], c.semantic.code_dim)
        self.pixel_encoder = MovqEncoder(c.pixel_encoder)
        self.pixel_quant_conv = nn.Conv2d(z, c.pixel_code_dim, 1)
        self.pixel_quantizer = SimVq(c.num_codes[1], c.pixel_code_dim)
        self.pixel_post_quant_conv = nn.Conv2d(c.semantic.code_dim + c.pixel_code_dim, both, 1)
        self.pixel_decoder = MovqDecoder(c.pixel_decoder)

    def pixel_vectors(self, pixels: Tensor) -> Tensor:
        """Vectors [1, dim, Y, X] of pixels [1, 3, 16 Y, 16 X]."""
        y: Tensor = self.pixel_quant_conv(self.pixel_encoder(pixels))
        return y

    def code_map(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        """Code vectors [1, dims, Y, X] of code grids [y, x] and [Y, X]: the coarse one is resized."""
        coarse = self.semantic_quantizer.codebook()[semantic].permute(2, 0, 1)[None]
        fine = self.pixel_quantizer.codebook()[pixel].permute(2, 0, 1)[None]
        resized = F.interpolate(coarse, size=fine.shape[-2:], mode="bicubic", align_corners=False)
        return torch.cat((resized, fine), dim=1)

    def decode(self, code_map: Tensor) -> Tensor:
        """Pixels [1, 3, 16 Y, 16 X] of a code map; not cut to [-1, 1]."""
        y: Tensor = self.pixel_decoder(self.pixel_post_quant_conv(code_map), code_map)
        return y
