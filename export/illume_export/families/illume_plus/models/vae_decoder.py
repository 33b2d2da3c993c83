"""Decoder of the autoencoder of Stable Diffusion XL: latents [B, 4, Y, X] -> pixels [B, 3, 8 Y, 8 X].

Parameter names are those of Hugging Face diffusers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.families.illume_plus.config import VaeDecoderConfig
from illume_export.families.illume_plus.models.upsample import RepeatedUpsample

EPS = 1e-6


class VaeResidual(nn.Module):
    """Two 3x3 convolutions; a 1x1 convolution where the width changes."""

    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=EPS)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=EPS)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.conv_shortcut = nn.Conv2d(c_in, c_out, 1)
        self.widens = c_in != c_out

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        y: Tensor = (self.conv_shortcut(x) if self.widens else x) + h
        return y


class VaeAttention(nn.Module):
    """Attention of one head among all places."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.scale = channels**-0.5

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # [B, Y X, C]
        q, k, v = self.to_q(h), self.to_k(h), self.to_v(h)
        h = torch.softmax((q * self.scale) @ k.transpose(1, 2), dim=-1) @ v
        y: Tensor = x + self.to_out[0](h).transpose(1, 2).view(x.shape)
        return y


class VaeMiddle(nn.Module):
    """Block, attention, block."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(VaeResidual(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([VaeAttention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.resnets[1](self.attentions[0](self.resnets[0](x)))
        return y


class VaeLevel(nn.Module):
    """Residual blocks, and a doubling of both sides at all levels but the last."""

    def __init__(self, c_in: int, c_out: int, num_blocks: int, groups: int, *, doubles: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(VaeResidual(c_in if i == 0 else c_out, c_out, groups) for i in range(num_blocks))
        if doubles:
            self.upsamplers = nn.ModuleList([RepeatedUpsample(c_out)])
        self.doubles = doubles

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        if self.doubles:
            x = self.upsamplers[0](x)
        return x


class Pixels(nn.Module):
    """What diffusers calls `decoder`."""

    def __init__(self, c: VaeDecoderConfig) -> None:
        super().__init__()
        width = c.channels[-1]
        self.conv_in = nn.Conv2d(c.latent_channels, width, 3, padding=1)
        self.mid_block = VaeMiddle(width, c.norm_groups)
        self.up_blocks = nn.ModuleList()
        for i, channels in enumerate(reversed(c.channels)):
            doubles = i + 1 < len(c.channels)
            self.up_blocks.append(VaeLevel(width, channels, c.layers_per_block + 1, c.norm_groups, doubles=doubles))
            width = channels
        self.conv_norm_out = nn.GroupNorm(c.norm_groups, width, eps=EPS)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        y: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return y


class VaeDecoder(nn.Module):
    """Scaled latents, as the diffusion loop leaves them -> pixels, not cut to [-1, 1]."""

    def __init__(self, c: VaeDecoderConfig) -> None:
        super().__init__()
        self.scale = c.scaling_factor
        self.post_quant_conv = nn.Conv2d(c.latent_channels, c.latent_channels, 1)
        self.decoder = Pixels(c)

    def forward(self, latents: Tensor) -> Tensor:
        y: Tensor = self.decoder(self.post_quant_conv(latents / self.scale))
        return y
