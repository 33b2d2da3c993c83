"""What the exact rewrites of the `illume_plus` family save at the size of the 3B model: counted, and timed here.

python -m benchmarks.rewrites

Bytes are those of weights in half precision, FLOPs those of products and convolutions (a multiplication with its
addition as two), for a picture of 512x512 that the diffusion decoder draws at 1024x1024. Nothing is computed for
them: all tensors are on the meta device. Times are of single layers of the real widths, in float32 PyTorch with one
thread: the least of some tries, before and after in turns.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from illume_export.families.illume_plus.config import DiffusionConfig, TokenizerConfig
from illume_export.families.illume_plus.models.dualvitok import DualViTok, SimVq
from illume_export.families.illume_plus.models.movq import Downsample, SpatialNorm, Upsample
from illume_export.families.illume_plus.models.unet import TransformerBlock, Unet
from illume_export.families.illume_plus.models.vision_transformer import PatchEmbed
from illume_export.families.illume_plus.rewrites import (
    AttentionFree,
    FoldedPatchEmbed,
    HoistedNorm,
    NearestCode,
    NearestUpsample,
    PooledDownsample,
    SplitUnet,
    rewritten,
    rewritten_decoder,
)

WIDTH, ROWS, BODY = 2048, 283_047, 2_774_774_000  # of the 3B language model: hidden size, vocabulary, layers' weights
CODES, GRIDS = (32_768, 98_304), (18 * 18, 32 * 32)
SAMPLED, TOKENS = sum(GRIDS), 1405
PATCHES, LATENTS = 36 * 36, (128, 128)
HALF = 2


def num_params(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def row(name: str, per: str, before: tuple[float, float], after: tuple[float, float]) -> str:
    def amount(value: float) -> str:
        for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
            if value >= size:
                return f"{value / size:,.2f} {unit}"
        return f"{value / 1e3:,.0f} k" if value else "0"

    cells = [name, per, *(f"{amount(a)} -> {amount(b)}" for a, b in zip(before, after, strict=True))]
    return f"| {' | '.join(cells)} |"


def counted(function: Callable[..., object], *shapes: tuple[int, ...]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*(torch.zeros(shape) for shape in shapes))
    return float(counter.get_total_flops())


def language_rows() -> list[str]:
    full = (HALF * ROWS * WIDTH, 2 * 2 * ROWS * WIDTH)
    rows = sum(codes * count for codes, count in zip(CODES, GRIDS, strict=True)) / SAMPLED
    sliced = (HALF * rows * WIDTH, 2 * 2 * rows * WIDTH)
    steps = [(HALF * BODY * count, 2 * 2 * BODY * TOKENS) for count in (TOKENS, SAMPLED - 1)]
    return [
        row("head sliced by segment", "sampled token, mean", full, sliced),
        row("guidance before the head", "sampled token, mean", sliced, (sliced[0], sliced[1] / 2)),
        row("forced tokens with the token before them", "picture", *steps),
    ]


def tokenizer_rows(tokenizer: DualViTok) -> list[str]:
    embed = tokenizer.semantic_encoder.model.patch_embed
    folded = rewritten(embed, {PatchEmbed: FoldedPatchEmbed})
    dim = tokenizer.semantic_quantizer.frozen_codebook.shape[1]
    transforms = 2.0 * sum(CODES) * dim * dim
    stored = HALF * (sum(CODES) * dim + 2 * dim * dim)
    plain = tokenizer.pixel_decoder
    hoisted = rewritten_decoder(plain)
    shapes = ((1, 64, 32, 32), (1, 64, 32, 32))
    weights = HALF * num_params(plain)
    drawing = HALF * (num_params(plain, tokenizer.pixel_post_quant_conv) + sum(CODES) * dim)
    with_decoder = HALF * (num_params(tokenizer) + sum(CODES) * dim + 83_350_000)  # and the semantic decoder
    return [
        row(
            "two temporal kernels added",
            "picture read",
            (HALF * num_params(embed), counted(embed, (PATCHES, 1176))),
            (HALF * num_params(folded), counted(folded, (PATCHES, 588))),
        ),
        row("codebooks multiplied out", "picture read", (stored, transforms), (HALF * sum(CODES) * dim, 0)),
        row(
            "modulations on the code grid",
            "picture drawn",
            (weights, counted(plain, *shapes)),
            (weights, counted(hoisted, *shapes)),
        ),
        row("of the tokenizer only what draws", "picture drawn", (with_decoder, 0), (drawing, 0)),
    ]


def diffusion_rows(unet: Unet) -> list[str]:
    latents, features = (1, 4, *LATENTS), (1, unet.conv_in.out_channels, *LATENTS)
    blocks = [m for m in unet.modules() if isinstance(m, TransformerBlock)]
    projections = [m for name, m in unet.named_modules() if "time_emb" in name or "embedding" in name]
    once = [m for m in projections if not list(m.children())]
    split = SplitUnet(unet, 4)
    shifts = (1, sum(split.widths))

    def whole(x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = unet(x, codes, torch.zeros(1), torch.zeros(1))
        return out

    all_flops = counted(whole, latents, (1, 64, *LATENTS))
    free = [AttentionFree(block) for block in blocks]
    attention_bytes = HALF * num_params(*blocks), HALF * num_params(*free)
    places = LATENTS[0] * LATENTS[1]
    first = unet.conv_in.out_channels * 9 * places
    left = counted(split, latents, features, shifts)
    embeddings = 2.0 * sum(p.numel() for m in once for p in m.parameters() if p.ndim == 2)
    conv_in = (2.0 * 68 * first, 2.0 * 4 * first)
    attention = all_flops - left - embeddings - (conv_in[0] - conv_in[1])
    return [
        row(
            "cross-attentions as constants",
            "step and row",
            (attention_bytes[0], attention),
            (attention_bytes[1], 0),
        ),
        row("step embeddings as a table", "step and row", (HALF * num_params(*once), embeddings), (0, 0)),
        row(
            "first convolution split",
            "step and row",
            (HALF * num_params(unet.conv_in), conv_in[0]),
            (HALF * num_params(split.conv_in), conv_in[1]),
        ),
        row(
            "the whole UNet",
            "step and row",
            (HALF * num_params(unet), all_flops),
            (HALF * num_params(split), left),
        ),
    ]


def least_ms(*functions: Callable[[], object]) -> list[float]:
    """The least time of each, run in turns, at least four times and for two seconds."""
    best, tries, begin = [float("inf")] * len(functions), 0, perf_counter()
    with torch.inference_mode():
        while tries < 4 or perf_counter() - begin < 2.0:
            tries += 1
            for i, function in enumerate(functions):
                start = perf_counter()
                function()
                best[i] = min(best[i], (perf_counter() - start) * 1e3)
    return best


def timed_rows() -> list[str]:
    """Layers of the 3B model; codes are searched for 64 vectors, the block is one of the 1280 wide ones."""
    torch.manual_seed(0)
    rows = []

    def add(name: str, layer: str, before: Callable[[], object], after: Callable[[], object]) -> None:
        old, new = least_ms(before, after)
        rows.append(f"| {name} | {layer} | {old:.1f} -> {new:.1f} | {old / new:.2f} |")

    hidden = torch.randn(2, WIDTH)
    head = torch.randn(CODES[1] + CODES[0], WIDTH)
    fine = head[: CODES[1]]
    add(
        "head sliced by segment",
        "level 1 of both levels",
        lambda: F.linear(hidden, head),
        lambda: F.linear(hidden, fine),
    )
    add("guidance before the head", "level 1", lambda: F.linear(hidden, fine), lambda: F.linear(hidden[:1], fine))
    body = torch.randn(11_008, WIDTH)
    one, two = torch.randn(2, WIDTH), torch.randn(4, WIDTH)
    add(
        "forced token with the one before it",
        "gate_proj, two rows",
        lambda: [F.linear(one, body) for _ in range(2)],
        lambda: F.linear(two, body),
    )
    embed, patches = PatchEmbed(TokenizerConfig().vit), torch.randn(PATCHES, 1176)
    folded, single = FoldedPatchEmbed(embed), patches[:, :588].contiguous()
    add("two temporal kernels added", "patch embedding", lambda: embed(patches), lambda: folded(single))
    quantizer, vectors = SimVq(CODES[1], 32), torch.randn(64, 32)
    nearest = NearestCode(quantizer)
    add("codebooks multiplied out", "level 1", lambda: quantizer.nearest(vectors), lambda: nearest(vectors))
    x, codes = torch.randn(1, 768, 128, 128), torch.randn(1, 64, 32, 32)
    norm = SpatialNorm(768, 64)
    hoisted = HoistedNorm(norm, 4)
    add("modulations on the code grid", "768 x 128 x 128", lambda: norm(x, codes), lambda: hoisted(x, codes))
    down, up = Downsample(256), Upsample(768)
    halved, doubled = PooledDownsample(down), NearestUpsample(up)
    pixels, coarse = torch.randn(1, 256, 128, 128), torch.randn(1, 768, 32, 32)
    add("shortcut as a mean", "256 x 128 x 128", lambda: down(pixels), lambda: halved(pixels))
    add("shortcut as repetition", "768 x 32 x 32", lambda: up(coarse), lambda: doubled(coarse))
    block = TransformerBlock(1280, 20, 2048)
    free = AttentionFree(block)
    tokens, text = torch.randn(1, 1024, 1280), torch.zeros(1, 77, 2048)
    add("cross-attentions as constants", "block, 1024 places", lambda: block(tokens, text), lambda: free(tokens, None))
    whole, split = nn.Conv2d(68, 320, 3, padding=1), nn.Conv2d(4, 320, 3, padding=1)
    wide, latents, added = torch.randn(1, 68, *LATENTS), torch.randn(1, 4, *LATENTS), torch.randn(1, 320, *LATENTS)
    add("first convolution split", "68 x 128 x 128", lambda: whole(wide), lambda: split(latents) + added)
    return rows


def main() -> None:
    """Print the tables of docs/rewrites.md."""
    with torch.device("meta"):
        tokenizer, unet = DualViTok(TokenizerConfig()), Unet(DiffusionConfig().unet)
        rows = [*language_rows(), *tokenizer_rows(tokenizer), *diffusion_rows(unet)]
    print("| rewrite | per | bytes of weights | FLOPs |\n|---|---|---|---|")
    print("\n".join(rows))
    torch.set_num_threads(1)
    print("\n| rewrite | layer | ms | times |\n|---|---|---|---|")
    print("\n".join(timed_rows()))


if __name__ == "__main__":
    main()
