"""Vision transformer of Qwen2-VL: patches of a picture [P, 1176] -> features of 2x2 patches [P / 4, C].

Patches stand in the order of merged blocks: the four of one feature are neighbours. `cos` and `sin` [P, E / 2] are the
rotary tables of their rows and columns, E the head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.families.illume_plus.config import VitConfig

EPS = 1e-6


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [P, H, E] by cos, sin [P, E / 2]; element i is paired with i + E / 2."""
    a, b = x.chunk(2, dim=-1)
    c, s = cos[:, None], sin[:, None]
    return torch.cat((a * c - b * s, b * c + a * s), dim=-1)


class VitAttention(nn.Module):
    """Attention among all patches of one picture: [P, D] -> [P, D]."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        # Three views of one product, not slices of one view: for those TensorRT takes an int8 weight apart as floats.
        q, k, v = (part.view(-1, self.num_heads, self.head_dim) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = rotate_halves(q, cos, sin), rotate_halves(k, cos, sin)
        q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))  # [1, H, P, E]
        y = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)
        out: Tensor = self.proj(y.reshape(-1, self.num_heads * self.head_dim))
        return out


class VitMlp(nn.Module):
    """Two linear layers with the sigmoid approximation of GELU: [P, D] -> [P, D]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        y: Tensor = self.fc2(h * torch.sigmoid(1.702 * h))
        return y


class VitBlock(nn.Module):
    """Pre-norm block: [P, D] -> [P, D]."""

    def __init__(self, width: int, num_heads: int, mlp_size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = VitAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = VitMlp(width, mlp_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class PatchEmbed(nn.Module):
    """One linear map of a patch of two equal frames; stored as a convolution."""

    def __init__(self, c: VitConfig) -> None:
        super().__init__()
        kernel = (c.temporal_patch_size, c.patch_size, c.patch_size)
        self.proj = nn.Conv3d(3, c.width, kernel, stride=kernel, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.flatten(1))


class Merger(nn.Module):
    """Four neighbouring patches become one feature: [P, D] -> [P / 4, C]."""

    def __init__(self, c: VitConfig) -> None:
        super().__init__()
        self.hidden = c.width * c.merge_size**2
        self.ln_q = nn.LayerNorm(c.width, eps=EPS)
        self.mlp = nn.Sequential(nn.Linear(self.hidden, self.hidden), nn.GELU(), nn.Linear(self.hidden, c.out_size))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(self.ln_q(x).view(-1, self.hidden))
        return y


class VisionTransformer(nn.Module):
    """Patches [P, 1176] -> features [P / 4, C] in raster order."""

    def __init__(self, c: VitConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(c)
        self.blocks = nn.ModuleList(VitBlock(c.width, c.num_heads, c.mlp_size) for _ in range(c.depth))
        self.merger = Merger(c)

    def forward(self, patches: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = self.patch_embed(patches)
        for block in self.blocks:
            x = block(x, cos, sin)
        y: Tensor = self.merger(x)
        return y
