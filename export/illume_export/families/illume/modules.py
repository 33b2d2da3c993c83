"""One small module per stage, except the decoder's. Each docstring is the stage's I/O; B is the batch."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models import Illume


class ImageEmbedder(nn.Module):
    """Encoder and adapter in one graph."""

    def __init__(self, model: Illume) -> None:
        super().__init__()
        self.vision_encoder, self.adapter = model.vision_encoder, model.adapter

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Image embeddings [B, 64, D] of pixels [B, 3, 256, 256]."""
        y: Tensor = self.adapter(self.vision_encoder(pixel_values))
        return y


class CodeFinder(nn.Module):
    """Vision encoder and nearest code.

    The features' vectors are not brought to unit length: the nearest code does not depend on a positive factor.
    """

    def __init__(self, model: Illume) -> None:
        super().__init__()
        self.vision_encoder, self.project = model.vision_encoder, model.image_tokenizer.project
        self.grid_size = model.config.grid_size
        self.register_buffer("codes", model.image_tokenizer.code_vectors().detach())
        self.codes: Tensor

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Codes [B, 8, 8] int64 of pixels [B, 3, 256, 256]."""
        nearest = F.linear(self.project(self.vision_encoder(pixel_values)), self.codes).argmax(dim=-1)
        return nearest.view(-1, self.grid_size, self.grid_size)


class LatentDecoder(nn.Module):
    """Decoder of the VAE.

    The latents' scale is folded into the first convolution: w (s x + m) = (w s) (x + m / s). The mean stays an
    addition, because the convolution pads with zeros after it.
    """

    def __init__(self, model: Illume) -> None:
        super().__init__()
        vae = model.vae
        self.first: nn.Module = copy.deepcopy(vae.decoder[0])
        with torch.no_grad():
            self.first.get_parameter("weight").mul_(vae.latent_std)
        self.rest = vae.decoder[1:]
        self.register_buffer("shift", (vae.latent_mean / vae.latent_std).detach())
        self.shift: Tensor

    def forward(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, 256, 256], cut to [-1, 1], of latents [B, 16, 16, 16] of unit variance."""
        y: Tensor = self.rest(self.first(latents + self.shift))
        return y.clamp(-1.0, 1.0)
