"""Exact rewrites: modules that compute the same with fewer bytes and products (docs/rewrites.md).

Each takes a plain module and gives a module that shares its weights or holds new ones folded from them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.families.illume_plus.models.dualvitok import SimVq
from illume_export.families.illume_plus.models.movq import (
    Downsample,
    Level,
    MovqDecoder,
    SpatialNorm,
    Upsample,
)
from illume_export.families.illume_plus.models.unet import (
    TransformerBlock,
    Unet,
    UnetBlock,
    UnetMiddle,
    UnetResidual,
    step_embedding,
)
from illume_export.families.illume_plus.models.vae_decoder import VaeDecoder
from illume_export.families.illume_plus.models.vision_transformer import PatchEmbed

Rules = Mapping[type[Any], Callable[[Any], nn.Module]]


def rewritten(module: nn.Module, rules: Rules) -> Any:
    """A copy of the tree of modules, its weights shared, in which each module of a type in `rules` is replaced."""
    rule = rules.get(type(module))
    if rule is not None:
        return rule(module)
    new = copy.copy(module)
    new._modules = {name: None if child is None else rewritten(child, rules) for name, child in module._modules.items()}
    return new


class FoldedPatchEmbed(nn.Module):
    """Both frames of a picture are equal: the two temporal kernels are added, and a patch is 588 numbers, not 1176."""

    def __init__(self, plain: PatchEmbed) -> None:
        super().__init__()
        self.weight = nn.Parameter(plain.proj.weight.detach().sum(dim=2).flatten(1))

    def forward(self, patches: Tensor) -> Tensor:
        """[P, D] of single frames [P, 588]."""
        return F.linear(patches, self.weight)


class PooledDownsample(nn.Module):
    """The shortcut is the mean of 2x2 places: an average pool instead of a shuffle and a mean over channels."""

    def __init__(self, plain: Downsample) -> None:
        super().__init__()
        self.conv = plain.conv

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, Y / 2, X / 2]."""
        return F.pixel_unshuffle(self.conv(x), 2) + F.avg_pool2d(x, 2)


class NearestUpsample(nn.Module):
    """The shortcut is every place four times: nearest resizing instead of four times the channels and a shuffle."""

    def __init__(self, plain: Upsample) -> None:
        super().__init__()
        self.conv = plain.conv

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 2 Y, 2 X]."""
        return F.pixel_shuffle(self.conv(x), 2) + F.interpolate(x, scale_factor=2.0, mode="nearest")


class HoistedNorm(nn.Module):
    """A 1x1 convolution of a map that is resized by repetition is the repetition of its convolution.

    Scale and shift are computed on the code grid, 1 / factor^2 of the places.
    """

    def __init__(self, plain: SpatialNorm, factor: int) -> None:
        super().__init__()
        self.norm_layer, self.conv_y, self.conv_b = plain.norm_layer, plain.conv_y, plain.conv_b
        self.factor = float(factor)

    def forward(self, x: Tensor, code_map: Tensor) -> Tensor:
        """[B, C, factor Y, factor X] of x of that shape and a code map [B, Z, Y, X]."""
        scale, shift = self.conv_y(code_map), self.conv_b(code_map)
        if self.factor != 1.0:
            scale, shift = (F.interpolate(t, scale_factor=self.factor, mode="nearest") for t in (scale, shift))
        y: Tensor = self.norm_layer(x) * scale + shift
        return y


class AttentionFree(nn.Module):
    """A cross-attention over zeros has keys and values of zero, as they have no bias: it adds its output's bias.

    That constant is added to the bias of the self-attention before it; the norm between them is not needed.
    """

    def __init__(self, plain: TransformerBlock) -> None:
        super().__init__()
        self.norm1, self.norm3, self.ff = plain.norm1, plain.norm3, plain.ff
        self.attn1 = copy.copy(plain.attn1)
        out, constant = (attention.to_out[0].get_parameter("bias") for attention in (plain.attn1, plain.attn2))
        folded = copy.copy(plain.attn1.to_out[0])
        folded._parameters = {**folded._parameters, "bias": nn.Parameter((out + constant).detach())}
        self.attn1._modules = {**plain.attn1._modules, "to_out": nn.ModuleList([folded])}

    def forward(self, x: Tensor, text: Tensor | None) -> Tensor:
        """[B, T, D]; there is no text."""
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        y: Tensor = x + self.ff(self.norm3(x))
        return y


def rewritten_vit(plain: nn.Module) -> nn.Module:
    """The vision transformer, or blocks with it, over patches of one frame."""
    new: nn.Module = rewritten(plain, {PatchEmbed: FoldedPatchEmbed})
    return new


def rewritten_encoder(plain: nn.Module) -> nn.Module:
    """The pixel encoder with average pools."""
    new: nn.Module = rewritten(plain, {Downsample: PooledDownsample})
    return new


def rewritten_decoder(plain: MovqDecoder) -> MovqDecoder:
    """The pixel decoder with modulations on the code grid and nearest resizing."""
    new = copy.copy(plain)
    coarsest = len(plain.up) - 1

    def at(factor: int) -> Rules:
        return {SpatialNorm: lambda norm: HoistedNorm(norm, factor), Upsample: NearestUpsample}

    levels = [rewritten(level, at(2 ** (coarsest - i))) for i, level in enumerate(plain.up)]
    assert all(isinstance(level, Level) for level in levels)
    new._modules = {
        **plain._modules,
        "mid": rewritten(plain.mid, at(1)),
        "up": nn.ModuleList(levels),
        "norm_out": HoistedNorm(plain.norm_out, 2**coarsest),
    }
    return new


def folded_codebook(plain: SimVq) -> Tensor:
    """The codes [K, dim] themselves: fixed table and transform multiplied once."""
    with torch.no_grad():
        return plain.codebook()


class NearestCode(nn.Module):
    """The nearest code by one product: |v - c|^2 is smallest where v . c - |c|^2 / 2 is largest."""

    def __init__(self, plain: SimVq) -> None:
        super().__init__()
        codes = folded_codebook(plain)
        self.weight = nn.Parameter(codes)
        self.bias = nn.Parameter(-0.5 * codes.double().square().sum(dim=1).float())

    def forward(self, vectors: Tensor) -> Tensor:
        """Indices [N] int64 of vectors [N, dim]; the lowest of equals."""
        return F.linear(vectors, self.weight, self.bias).argmax(dim=-1)


class StepShifts(nn.Module):
    """What a step adds to the channels of every residual block depends on the time and the resolution alone.

    It is computed once per picture, for all steps, and not in each of them for each row.
    """

    def __init__(self, unet: Unet) -> None:
        super().__init__()
        self.config = unet.config
        self.time_embedding, self.add_embedding = unet.time_embedding, unet.add_embedding
        projections = [resnet.time_emb_proj for resnet in unet.residuals()]
        self.weight = nn.Parameter(torch.cat([p.weight.detach() for p in projections]))
        self.bias = nn.Parameter(torch.cat([p.bias.detach() for p in projections]))

    def forward(self, times: Tensor, resolution: Tensor) -> Tensor:
        """Shifts [S, C] of all blocks side by side, of times [S] and numbers of resolutions [S]."""
        embedding = step_embedding(self.config, self.time_embedding, self.add_embedding, times, resolution)
        return F.linear(F.silu(embedding), self.weight, self.bias)


class CodeFeatures(nn.Module):
    """The share of the code map in the first convolution, which is the same in all steps and zero for no codes."""

    def __init__(self, unet: Unet, latent_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(unet.conv_in.weight.detach()[:, latent_channels:].clone())

    def forward(self, code_map: Tensor) -> Tensor:
        """Features [B, C, 4 Y, 4 X] of code maps [B, Z, Y, X]."""
        return F.conv2d(F.interpolate(code_map, scale_factor=4.0, mode="nearest"), self.weight, padding=1)


class SplitUnet(nn.Module):
    """The UNet without what does not change within a picture: it takes shifts and code features instead."""

    def __init__(self, unet: Unet, latent_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(latent_channels, unet.conv_in.out_channels, 3, padding=1, device="meta")
        self.conv_in.weight = nn.Parameter(unet.conv_in.weight.detach()[:, :latent_channels].clone())
        self.conv_in.bias = unet.conv_in.bias
        rules: Rules = {TransformerBlock: AttentionFree, UnetResidual: _without_projection}
        self.down_blocks: nn.ModuleList = rewritten(unet.down_blocks, rules)
        self.mid_block: UnetMiddle = rewritten(unet.mid_block, rules)
        self.up_blocks: nn.ModuleList = rewritten(unet.up_blocks, rules)
        self.conv_norm_out, self.conv_out = unet.conv_norm_out, unet.conv_out
        self.widths = unet.shift_widths()

    def forward(self, latents: Tensor, code_features: Tensor, shifts: Tensor) -> Tensor:
        """Noise [B, 4, Y, X] of latents of that shape, code features [B, C, Y, X] and shifts [B, sum of C]."""
        parts = iter(torch.split(shifts, self.widths, dim=1))
        x = self.conv_in(latents) + code_features
        skips = [x]
        for block in self.down_blocks:
            assert isinstance(block, UnetBlock)
            for i, resnet in enumerate(block.resnets):
                x = _residual(resnet)(x, next(parts))
                x = block.attentions[i](x, None) if block.attentions else x
                skips.append(x)
            for downsample in block.downsamplers:
                x = downsample(x)
                skips.append(x)
        first, second = self.mid_block.resnets
        x = self.mid_block.attentions[0](_residual(first)(x, next(parts)), None)
        x = _residual(second)(x, next(parts))
        for block in self.up_blocks:
            assert isinstance(block, UnetBlock)
            for i, resnet in enumerate(block.resnets):
                x = _residual(resnet)(torch.cat((x, skips.pop()), dim=1), next(parts))
                x = block.attentions[i](x, None) if block.attentions else x
            for upsample in block.upsamplers:
                x = upsample(x)
        y: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return y


def _residual(module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    assert isinstance(module, UnetResidual)
    return module.with_shift


def _without_projection(plain: UnetResidual) -> UnetResidual:
    new = copy.copy(plain)
    new._modules = {name: child for name, child in plain._modules.items() if name != "time_emb_proj"}
    return new


class ScaledVaeDecoder(nn.Module):
    """The decoder with the latents' scale in the weights of its first convolution, which is 1x1; cut to [-1, 1]."""

    def __init__(self, plain: VaeDecoder) -> None:
        super().__init__()
        conv = plain.post_quant_conv
        self.post_quant_conv = nn.Conv2d(conv.in_channels, conv.out_channels, 1, device="meta")
        self.post_quant_conv.weight = nn.Parameter((conv.weight / plain.scale).detach())
        self.post_quant_conv.bias = conv.bias
        self.decoder = plain.decoder

    def forward(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, 8 Y, 8 X] of latents [B, 4, Y, X]."""
        y: Tensor = self.decoder(self.post_quant_conv(latents))
        return y.clamp(-1.0, 1.0)
