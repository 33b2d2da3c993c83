"""One small module per stage. Each docstring is the stage's I/O; pictures are read one at a time, drawn in batches."""

from __future__ import annotations

from torch import Tensor, nn

from illume_export.families.illume_plus.config import DiffusionConfig
from illume_export.families.illume_plus.models.dualvitok import DualViTok
from illume_export.families.illume_plus.models.plus import Mllm
from illume_export.families.illume_plus.models.unet import Unet
from illume_export.families.illume_plus.rewrites import (
    CodeFeatures,
    NearestCode,
    StepShifts,
    rewritten_decoder,
    rewritten_encoder,
    rewritten_vit,
)


class PictureEmbedder(nn.Module):
    """Both encoders and their projections in one graph."""

    def __init__(self, mllm: Mllm) -> None:
        super().__init__()
        self.semantic_encoder = rewritten_vit(mllm.vision_tower.semantic_encoder)
        self.pixel_encoder = rewritten_encoder(mllm.vision_tower.pixel_encoder)
        self.projector = mllm.mm_projector

    def forward(self, pixel_values: Tensor, patches: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Embeddings [1, M + Y X, D] of pixels [1, 3, 16 Y, 16 X], patches [4 M, 588] and their tables [4 M, E / 2]."""
        semantic = self.semantic_encoder(patches, cos, sin)
        pixel = self.pixel_encoder(pixel_values)[0].flatten(1).T
        y: Tensor = self.projector(semantic, pixel)
        return y[None]


class CodeFinder(nn.Module):
    """The codes of a picture in both levels."""

    def __init__(self, tokenizer: DualViTok) -> None:
        super().__init__()
        self.semantic_encoder = rewritten_vit(tokenizer.semantic_encoder)
        self.pixel_encoder = rewritten_encoder(tokenizer.pixel_encoder)
        self.pixel_quant_conv = tokenizer.pixel_quant_conv
        self.semantic_codes = NearestCode(tokenizer.semantic_quantizer)
        self.pixel_codes = NearestCode(tokenizer.pixel_quantizer)

    def forward(
        self, pixel_values: Tensor, patches: Tensor, cos: Tensor, sin: Tensor, merged_cos: Tensor, merged_sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Codes [1, M] and [1, Y X] int64, from 0 within each level, in raster order."""
        semantic = self.semantic_encoder(patches, cos, sin, merged_cos, merged_sin)
        pixel = self.pixel_quant_conv(self.pixel_encoder(pixel_values))[0].flatten(1).T
        return self.semantic_codes(semantic)[None], self.pixel_codes(pixel)[None]


class CodeDecoder(nn.Module):
    """The fast picture: pixels from code vectors."""

    def __init__(self, tokenizer: DualViTok) -> None:
        super().__init__()
        self.pixel_post_quant_conv = tokenizer.pixel_post_quant_conv
        self.pixel_decoder = rewritten_decoder(tokenizer.pixel_decoder)

    def forward(self, code_map: Tensor) -> Tensor:
        """Pixels [B, 3, 16 Y, 16 X], cut to [-1, 1], of code maps [B, Z, Y, X]."""
        y: Tensor = self.pixel_decoder(self.pixel_post_quant_conv(code_map), code_map)
        return y.clamp(-1.0, 1.0)


class Conditioner(nn.Module):
    """Everything that the denoiser's steps have in common, computed once per picture."""

    def __init__(self, unet: Unet, diffusion: DiffusionConfig) -> None:
        super().__init__()
        self.step_shifts = StepShifts(unet)
        self.code_features = CodeFeatures(unet, diffusion.vae.latent_channels)

    def forward(self, code_map: Tensor, time: Tensor, resolution: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, C, 4 Y, 4 X] of code maps [B, Z, Y, X]; shifts [S, C'] of times and resolutions, both [S]."""
        return self.code_features(code_map), self.step_shifts(time, resolution)
