"""UNet of Stable Diffusion XL with the code map as more input channels: noisy latents -> the noise in them.

Its text conditioning is void: the cross-attentions get zeros. Parameter names are those of Hugging Face diffusers.
Shapes: latents [B, 4, Y, X], code map [B, Z, Y, X], step embedding [B, E].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.families.illume_plus.config import UnetConfig
from illume_export.families.illume_plus.models.upsample import RepeatedUpsample

NORM_EPS = 1e-5
TRANSFORMER_NORM_EPS = 1e-6
NUM_SIZE_IDS = 6  # five zeros and the number of the resolution
POOLED_TEXT = 1280  # width of the pooled text embedding, which is zero
TEXT_TOKENS = 77


def sinusoids(values: Tensor, width: int) -> Tensor:
    """Cosines, then sines [N, width] of values [N] at rates from 1 down to nearly 1/10000."""
    half = width // 2
    rates = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half)
    angles = values[:, None].float() * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class EmbeddingMlp(nn.Module):
    """Two linear layers with SiLU."""

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(c_in, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return y


def step_embedding(
    c: UnetConfig, time_embedding: EmbeddingMlp, add_embedding: EmbeddingMlp, times: Tensor, resolution: Tensor
) -> Tensor:
    """Step embedding [B, E] of times [B] and numbers of resolutions [B]."""
    ids = F.pad(resolution[:, None].float(), (NUM_SIZE_IDS - 1, 0))  # [B, 6]
    sizes = sinusoids(ids.flatten(), c.size_embed_width).view(-1, NUM_SIZE_IDS * c.size_embed_width)
    pooled = F.pad(sizes[:, :0], (POOLED_TEXT, 0))  # zeros [B, 1280]
    time: Tensor = time_embedding(sinusoids(times, c.channels[0]))
    size: Tensor = add_embedding(torch.cat((pooled, sizes), dim=-1))
    return time + size


class UnetResidual(nn.Module):
    """Two 3x3 convolutions with the step embedding added between them."""

    def __init__(self, c_in: int, c_out: int, embed: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(embed, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.conv_shortcut = nn.Conv2d(c_in, c_out, 1)
        self.widens = c_in != c_out

    def shift(self, embedding: Tensor) -> Tensor:
        """What the step adds to each channel: [B, C]."""
        y: Tensor = self.time_emb_proj(F.silu(embedding))
        return y

    def with_shift(self, x: Tensor, shift: Tensor) -> Tensor:
        """The block, given its shift [B, C]."""
        h = self.conv1(F.silu(self.norm1(x))) + shift[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        y: Tensor = (self.conv_shortcut(x) if self.widens else x) + h
        return y

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.with_shift(x, self.shift(embedding))


class UnetAttention(nn.Module):
    """Attention of x [B, T, D] over a context [B, S, K]."""

    def __init__(self, width: int, num_heads: int, context: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        y: Tensor = self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y


class GatedProjection(nn.Module):
    """Linear layer whose one half is gated by the GELU of the other."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.proj(x).chunk(2, dim=-1)
        y: Tensor = h * F.gelu(gate)
        return y


class FeedForward(nn.Module):
    """Gated perceptron of four times the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GatedProjection(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net[2](self.net[0](x))
        return y


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, perceptron, each behind a norm."""

    def __init__(self, width: int, num_heads: int, context: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = UnetAttention(width, num_heads, width)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = UnetAttention(width, num_heads, context)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), text)
        y: Tensor = x + self.ff(self.norm3(x))
        return y


class SpatialTransformer(nn.Module):
    """Transformer over all places: [B, C, Y, X] -> [B, C, Y, X]."""

    def __init__(self, channels: int, num_heads: int, num_layers: int, context: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=TRANSFORMER_NORM_EPS)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, num_heads, context) for _ in range(num_layers)
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, text: Tensor | None) -> Tensor:
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.transformer_blocks:
            h = block(h, text)
        y: Tensor = x + self.proj_out(h).transpose(1, 2).view(x.shape)
        return y


class UnetDownsample(nn.Module):
    """Convolution of stride two."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class UnetBlock(nn.Module):
    """Residual blocks, each with a transformer behind it where the level has them, then a resampling."""

    def __init__(self, c: UnetConfig, widths: list[tuple[int, int]], level: int) -> None:
        super().__init__()
        channels, layers = c.channels[level], c.transformer_layers[level]
        self.resnets = nn.ModuleList(UnetResidual(a, b, c.embed_width, c.norm_groups) for a, b in widths)
        self.attentions = nn.ModuleList(
            SpatialTransformer(channels, c.num_heads[level], layers, c.context_width, c.norm_groups)
            for _ in widths
            if layers
        )
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()


class UnetMiddle(nn.Module):
    """Block, transformer, block at the coarsest level."""

    def __init__(self, c: UnetConfig) -> None:
        super().__init__()
        width = c.channels[-1]
        self.resnets = nn.ModuleList(UnetResidual(width, width, c.embed_width, c.norm_groups) for _ in range(2))
        layers = c.transformer_layers[-1]
        self.attentions = nn.ModuleList(
            [SpatialTransformer(width, c.num_heads[-1], layers, c.context_width, c.norm_groups)]
        )


class Unet(nn.Module):
    """The whole UNet."""

    def __init__(self, c: UnetConfig) -> None:
        super().__init__()
        self.config = c
        first, last = c.channels[0], len(c.channels) - 1
        self.conv_in = nn.Conv2d(c.in_channels, first, 3, padding=1)
        self.time_embedding = EmbeddingMlp(first, c.embed_width)
        self.add_embedding = EmbeddingMlp(NUM_SIZE_IDS * c.size_embed_width + POOLED_TEXT, c.embed_width)
        self.down_blocks = nn.ModuleList()
        skips, width = [first], first
        for level, channels in enumerate(c.channels):
            widths = [(width if i == 0 else channels, channels) for i in range(c.layers_per_block)]
            block = UnetBlock(c, widths, level)
            skips += [channels] * c.layers_per_block
            if level < last:
                block.downsamplers.append(UnetDownsample(channels))
                skips.append(channels)
            self.down_blocks.append(block)
            width = channels
        self.mid_block = UnetMiddle(c)
        self.up_blocks = nn.ModuleList()
        for level in reversed(range(len(c.channels))):
            channels = c.channels[level]
            widths = []
            for _ in range(c.layers_per_block + 1):
                widths.append((width + skips.pop(), channels))
                width = channels
            block = UnetBlock(c, widths, level)
            if level > 0:
                block.upsamplers.append(RepeatedUpsample(channels))
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(c.norm_groups, first, eps=NORM_EPS)
        self.conv_out = nn.Conv2d(first, 4, 3, padding=1)

    def residuals(self) -> list[UnetResidual]:
        """All residual blocks in the order in which they run."""
        parts = (*self.down_blocks, self.mid_block, *self.up_blocks)
        return [module for part in parts for module in part.modules() if isinstance(module, UnetResidual)]

    def shift_widths(self) -> list[int]:
        """The channels of each residual block's shift."""
        return [resnet.conv1.out_channels for resnet in self.residuals()]

    def embedding(self, times: Tensor, resolution: Tensor) -> Tensor:
        """Step embedding [B, E] of times [B] and numbers of resolutions [B]."""
        return step_embedding(self.config, self.time_embedding, self.add_embedding, times, resolution)

    def forward(self, latents: Tensor, code_map: Tensor, times: Tensor, resolution: Tensor) -> Tensor:
        embedding = self.embedding(times, resolution)
        text = torch.zeros(len(latents), TEXT_TOKENS, self.config.context_width)
        x = self.conv_in(torch.cat((latents, code_map), dim=1))
        skips = [x]
        for block in self.down_blocks:
            assert isinstance(block, UnetBlock)
            for i, resnet in enumerate(block.resnets):
                x = resnet(x, embedding)
                x = block.attentions[i](x, text) if block.attentions else x
                skips.append(x)
            for downsample in block.downsamplers:
                x = downsample(x)
                skips.append(x)
        first, second = self.mid_block.resnets
        x = second(self.mid_block.attentions[0](first(x, embedding), text), embedding)
        for block in self.up_blocks:
            assert isinstance(block, UnetBlock)
            for i, resnet in enumerate(block.resnets):
                x = resnet(torch.cat((x, skips.pop()), dim=1), embedding)
                x = block.attentions[i](x, text) if block.attentions else x
            for upsample in block.upsamplers:
                x = upsample(x)
        y: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return y
