"""What the language model sees of a picture: two sets of features, each projected to its width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from illume_export.families.illume_plus.config import TokenizerConfig
from illume_export.families.illume_plus.models.movq import MovqEncoder
from illume_export.families.illume_plus.models.vision_transformer import VisionTransformer


class DualTower(nn.Module):
    """The two encoders, fine-tuned with the language model: not those of the tokenizer."""

    def __init__(self, c: TokenizerConfig) -> None:
        super().__init__()
        self.semantic_encoder = VisionTransformer(c.vit)
        self.pixel_encoder = MovqEncoder(c.pixel_encoder)

    def forward(self, pixels: Tensor, patches: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Semantic features [M, C] and pixel features [Y X, Z], both in raster order."""
        return self.semantic_encoder(patches, cos, sin), self.pixel_encoder(pixels)[0].flatten(1).T


class Projector(nn.Module):
    """One perceptron for each set of features."""

    def __init__(self, semantic: int, pixel: int, width: int) -> None:
        super().__init__()
        self.projector_1 = nn.Sequential(nn.Linear(semantic, width), nn.GELU(), nn.Linear(width, width))
        self.projector_2 = nn.Sequential(nn.Linear(pixel, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        """Embeddings [M + Y X, D]: all semantic ones, then all pixel ones."""
        return torch.cat((self.projector_1(semantic), self.projector_2(pixel)))
