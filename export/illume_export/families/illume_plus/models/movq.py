"""Convolutional autoencoder with 16x spatial compression: pixels [B, 3, 16 Y, 16 X] <-> features [B, Z, Y, X].

Levels count from full resolution (0) to the coarsest. In the decoder every norm is modulated by the code map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.families.illume_plus.config import MovqConfig

EPS = 1e-6
GROUPS = 32


def swish(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return x * torch.sigmoid(x)


def means(x: Tensor, channels: int) -> Tensor:
    """Means [B, channels, Y, X] of equal groups of consecutive channels of x [B, C, Y, X]."""
    B, C, Y, X = x.shape
    return x.view(B, channels, C // channels, Y, X).mean(dim=2)


class GroupNorm(nn.GroupNorm):
    """Norm of the encoder; it takes the decoder's code map and does not look at it."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels, eps=EPS)

    def forward(self, x: Tensor, code_map: Tensor | None = None) -> Tensor:
        return super().forward(x)


class SpatialNorm(nn.Module):
    """Group norm whose scale and shift are linear in the code map at that place (Zheng et al., MoVQ, 2022)."""

    def __init__(self, channels: int, z_channels: int) -> None:
        super().__init__()
        self.norm_layer = nn.GroupNorm(GROUPS, channels, eps=EPS)
        self.conv_y = nn.Conv2d(z_channels, channels, 1)
        self.conv_b = nn.Conv2d(z_channels, channels, 1)

    def forward(self, x: Tensor, code_map: Tensor | None = None) -> Tensor:
        assert code_map is not None
        codes = F.interpolate(code_map, size=x.shape[-2:], mode="nearest")
        y: Tensor = self.norm_layer(x) * self.conv_y(codes) + self.conv_b(codes)
        return y


def norm_of(channels: int, code_channels: int | None) -> nn.Module:
    """The encoder's norm, or the decoder's where there is a code map."""
    return GroupNorm(channels) if code_channels is None else SpatialNorm(channels, code_channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; a 1x1 convolution where the width changes."""

    def __init__(self, c_in: int, c_out: int, code_channels: int | None) -> None:
        super().__init__()
        self.norm1 = norm_of(c_in, code_channels)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = norm_of(c_out, code_channels)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)
        self.widens = c_in != c_out

    def forward(self, x: Tensor, code_map: Tensor | None = None) -> Tensor:
        h = self.conv1(swish(self.norm1(x, code_map)))
        h = self.conv2(swish(self.norm2(h, code_map)))
        y: Tensor = (self.nin_shortcut(x) if self.widens else x) + h
        return y


class SpatialAttention(nn.Module):
    """Attention of one head among all places. The head is wider than fused kernels take: products and a softmax.

    The query is scaled before the product, so that it fits half precision.
    """

    def __init__(self, channels: int, code_channels: int | None) -> None:
        super().__init__()
        self.norm = norm_of(channels, code_channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        self.scale = channels**-0.5

    def forward(self, x: Tensor, code_map: Tensor | None = None) -> Tensor:
        h = self.norm(x, code_map)
        q, k, v = (conv(h).flatten(2) for conv in (self.q, self.k, self.v))  # [B, C, Y X]
        weights = torch.softmax((q * self.scale).transpose(1, 2) @ k, dim=-1)
        h = (v @ weights.transpose(1, 2)).view(x.shape)
        y: Tensor = x + self.proj_out(h)
        return y


class Downsample(nn.Module):
    """Halves both sides: a convolution whose places are stacked, plus the mean of 2x2 places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels // 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.conv(x), 2) + means(F.pixel_unshuffle(x, 2), self.channels)


class Upsample(nn.Module):
    """Doubles both sides: a convolution whose channels are spread, plus every place four times."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pixel_shuffle(x.repeat_interleave(4, dim=1), 2)
        return F.pixel_shuffle(self.conv(x), 2) + shortcut


class Middle(nn.Module):
    """Block, attention, block at the coarsest level."""

    def __init__(self, channels: int, code_channels: int | None) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, code_channels)
        self.attn_1 = SpatialAttention(channels, code_channels)
        self.block_2 = ResidualBlock(channels, channels, code_channels)

    def forward(self, x: Tensor, code_map: Tensor | None = None) -> Tensor:
        y: Tensor = self.block_2(self.attn_1(self.block_1(x, code_map), code_map), code_map)
        return y


class Level(nn.Module):
    """Blocks of one level, each with an attention behind it where the level has attentions, then a resampling."""

    def __init__(
        self, c_in: int, c_out: int, num_blocks: int, *, attention: bool, code_channels: int | None = None
    ) -> None:
        super().__init__()
        widths = [c_in] + [c_out] * (num_blocks - 1)
        self.block = nn.ModuleList(ResidualBlock(width, c_out, code_channels) for width in widths)
        self.attn = nn.ModuleList(SpatialAttention(c_out, code_channels) for _ in widths if attention)

    def forward(self, x: Tensor, code_map: Tensor | None = None) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x, code_map)
            if self.attn:
                x = self.attn[i](x, code_map)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class MovqEncoder(nn.Module):
    """Pixels [B, 3, 16 Y, 16 X] in [-1, 1] -> features [B, Z, Y, X]."""

    def __init__(self, c: MovqConfig) -> None:
        super().__init__()
        self.z_channels = c.z_channels
        self.conv_in = nn.Conv2d(3, c.base_channels, 3, padding=1)
        self.down = nn.ModuleList()
        width = c.base_channels
        for level, channels in enumerate(c.channels):
            part = Level(width, channels, c.num_blocks, attention=level in c.attention_levels)
            if level + 1 < len(c.channels):
                part.downsample = Downsample(channels)
            self.down.append(part)
            width = channels
        self.mid = Middle(width, None)
        self.norm_out = GroupNorm(width)
        self.conv_out = nn.Conv2d(width, c.z_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(pixels)
        for level in self.down:
            x = level(x)
        x = swish(self.norm_out(self.mid(x)))
        y: Tensor = self.conv_out(x) + means(x, self.z_channels)
        return y


class MovqDecoder(nn.Module):
    """Features and code map, both [B, Z, Y, X] -> pixels [B, 3, 16 Y, 16 X]."""

    def __init__(self, c: MovqConfig) -> None:
        super().__init__()
        width = c.channels[-1]
        self.repeats = width // c.z_channels
        self.conv_in = nn.Conv2d(c.z_channels, width, 3, padding=1)
        self.mid = Middle(width, c.z_channels)
        levels: list[Level] = []
        for level in reversed(range(len(c.channels))):
            channels = c.channels[level]
            attention = level in c.attention_levels
            part = Level(width, channels, c.num_blocks + 1, attention=attention, code_channels=c.z_channels)
            if level > 0:
                part.upsample = Upsample(channels)
            levels.append(part)
            width = channels
        self.up = nn.ModuleList(reversed(levels))  # by level: the last one runs first
        self.norm_out = SpatialNorm(width, c.z_channels)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor, code_map: Tensor) -> Tensor:
        x = self.conv_in(z) + z.repeat_interleave(self.repeats, dim=1)
        x = self.mid(x, code_map)
        for level in reversed(self.up):
            x = level(x, code_map)
        y: Tensor = self.conv_out(swish(self.norm_out(x, code_map)))
        return y
