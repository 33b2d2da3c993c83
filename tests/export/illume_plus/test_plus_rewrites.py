"""Each exact rewrite against the plain module, on the small model of random weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.models.movq import Downsample, SpatialNorm, Upsample
from illume_export.families.illume_plus.models.unet import TEXT_TOKENS, TransformerBlock, Unet
from illume_export.families.illume_plus.modules import CodeDecoder, CodeFinder, Conditioner, PictureEmbedder
from illume_export.families.illume_plus.rewrites import (
    AttentionFree,
    CodeFeatures,
    HoistedNorm,
    NearestCode,
    NearestUpsample,
    PooledDownsample,
    ScaledVaeDecoder,
    SplitUnet,
    StepShifts,
    folded_codebook,
    rewritten_decoder,
    rewritten_encoder,
    rewritten_vit,
)

LATENTS = 4


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    torch.manual_seed(7)
    with torch.no_grad():
        yield


def error(got: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


def unet_of(plus: IllumePlus) -> Unet:
    assert plus.unet is not None
    return plus.unet


def tables(num: int, width: int) -> tuple[Tensor, Tensor]:
    angles = torch.rand(num, width) * 6
    return angles.cos(), angles.sin()


def frames(patches: Tensor) -> Tensor:
    """Patches of two equal frames [P, 1176] from those of one [P, 588]."""
    return patches.view(-1, 3, 1, 196).repeat(1, 1, 2, 1).reshape(len(patches), -1)


def test_patches_of_one_frame(plus: IllumePlus) -> None:
    vit = plus.mllm.vision_tower.semantic_encoder
    patches, rope = torch.randn(24, 588), tables(24, 8)
    new = rewritten_vit(vit)
    assert error(new(patches, *rope), vit(frames(patches), *rope)) < 1e-5
    assert new.get_parameter("patch_embed.weight").numel() * 2 == vit.patch_embed.proj.weight.numel()
    assert new.get_parameter("merger.mlp.0.weight") is vit.merger.mlp[0].weight  # weights are shared, not copied


@pytest.mark.parametrize("size", [(2, 2), (6, 10)])
def test_an_average_pool_is_the_shuffled_mean(size: tuple[int, int]) -> None:
    plain, x = Downsample(8), torch.randn(2, 8, *size)
    assert error(PooledDownsample(plain)(x), plain(x)) < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_nearest_resizing_is_the_shuffled_repetition(size: tuple[int, int]) -> None:
    plain, x = Upsample(8), torch.randn(2, 8, *size)
    assert torch.equal(NearestUpsample(plain)(x), plain(x))


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_a_modulation_on_the_code_grid(factor: int) -> None:
    plain, codes = SpatialNorm(32, 6), torch.randn(2, 6, 3, 5)
    nn.init.normal_(plain.norm_layer.weight)
    x = torch.randn(2, 32, 3 * factor, 5 * factor)
    assert error(HoistedNorm(plain, factor)(x, codes), plain(x, codes)) < 1e-6


def test_the_pixel_encoder(plus: IllumePlus) -> None:
    plain, pixels = plus.tokenizer.pixel_encoder, torch.randn(1, 3, 48, 32)
    new = rewritten_encoder(plain)
    assert error(new(pixels), plain(pixels)) < 1e-5
    assert sum(isinstance(m, PooledDownsample) for m in new.modules()) == 4
    assert not any(isinstance(m, Downsample) for m in new.modules())


def test_the_pixel_decoder(plus: IllumePlus) -> None:
    plain = plus.tokenizer.pixel_decoder
    z, codes = torch.randn(2, 16, 3, 2), torch.randn(2, 16, 3, 2)
    new = rewritten_decoder(plain)
    assert error(new(z, codes), plain(z, codes)) < 1e-5
    assert not any(isinstance(m, (SpatialNorm, Upsample)) for m in new.modules())
    norms = [m for m in new.modules() if isinstance(m, HoistedNorm)]
    assert len(norms) == sum(isinstance(m, SpatialNorm) for m in plain.modules())
    assert {norm.factor for norm in norms} == {1.0, 2.0, 4.0, 8.0, 16.0}


def test_a_codebook_is_folded(plus: IllumePlus) -> None:
    quantizer = plus.tokenizer.pixel_quantizer
    codes = folded_codebook(quantizer)
    ids = torch.tensor([0, 39, 7, 7])
    assert torch.equal(codes[ids], F.linear(quantizer.frozen_codebook, quantizer.code_transform.weight)[ids])


def test_the_nearest_code_is_one_product(plus: IllumePlus) -> None:
    quantizer = plus.tokenizer.semantic_quantizer
    vectors = torch.randn(500, 4)
    assert torch.equal(NearestCode(quantizer)(vectors), quantizer.nearest(vectors))
    assert torch.equal(NearestCode(quantizer)(quantizer.codebook()), torch.arange(20))


def test_of_equal_codes_the_lowest_is_found(plus: IllumePlus) -> None:
    quantizer = plus.tokenizer.semantic_quantizer
    frozen = quantizer.frozen_codebook.clone()
    quantizer.frozen_codebook[11] = frozen[5]
    try:
        assert int(NearestCode(quantizer)(quantizer.codebook()[11:12])) == 5
    finally:
        quantizer.frozen_codebook[:] = frozen


def test_a_cross_attention_over_zeros_is_a_constant(plus: IllumePlus) -> None:
    plain = next(m for m in unet_of(plus).modules() if isinstance(m, TransformerBlock))
    x, zeros = torch.randn(2, 6, 24), torch.zeros(2, TEXT_TOKENS, 12)
    assert torch.equal(plain.attn2(x, zeros), plain.attn2.to_out[0].bias.expand_as(x))
    new = AttentionFree(plain)
    assert error(new(x, None), plain(x, zeros)) < 1e-6
    left_out = sum(p.numel() for m in (plain.attn2, plain.norm2) for p in m.parameters())
    assert sum(p.numel() for p in new.parameters()) == sum(p.numel() for p in plain.parameters()) - left_out


def test_the_unet_without_what_is_constant(plus: IllumePlus) -> None:
    plain = unet_of(plus)
    latents, code_map = torch.randn(2, LATENTS, 8, 16), torch.randn(2, 16, 2, 4)
    code_map[0] = 0  # the unconditional row
    times, resolution = torch.tensor([751.0, 1.0]), torch.tensor([11, 3])
    shifts, features = StepShifts(plain)(times, resolution), CodeFeatures(plain, LATENTS)(code_map)
    assert not features[0].any()
    repeated = F.interpolate(code_map, scale_factor=4.0, mode="nearest")
    expected = plain(latents, repeated, times, resolution)
    new = SplitUnet(plain, LATENTS)
    assert error(new(latents, features, shifts), expected) < 1e-5
    names = {name for name, _ in new.named_parameters()}
    assert not any(word in name for name in names for word in ("attn2", "time_emb", "embedding"))


def test_the_conditioner_is_both_of_its_parts(plus: IllumePlus) -> None:
    plain = unet_of(plus)
    assert plus.config.diffusion is not None
    code_map, times, resolution = torch.randn(1, 16, 2, 2), torch.tensor([9.0, 3.0, 1.0]), torch.tensor([0, 5, 11])
    features, shifts = Conditioner(plain, plus.config.diffusion)(code_map, times, resolution)
    assert torch.equal(features, CodeFeatures(plain, LATENTS)(code_map))
    first = plain.down_blocks[0].resnets[0]
    assert error(shifts[:, : first.conv1.out_channels], first.shift(plain.embedding(times, resolution))) < 1e-6


def test_the_scale_of_the_latents(plus: IllumePlus) -> None:
    assert plus.vae is not None
    latents = torch.randn(2, LATENTS, 3, 2)
    assert error(ScaledVaeDecoder(plus.vae)(latents), plus.vae(latents).clamp(-1, 1)) < 1e-5


def test_the_picture_embedder(plus: IllumePlus) -> None:
    pixels, patches, rope = torch.randn(1, 3, 32, 48), torch.randn(8, 588), tables(8, 8)
    got = PictureEmbedder(plus.mllm)(pixels, patches, *rope)
    expected = plus.mllm.mm_projector(*plus.mllm.vision_tower(pixels, frames(patches), *rope))
    assert error(got[0], expected) < 1e-5


def test_the_code_finder_and_the_code_decoder(plus: IllumePlus) -> None:
    pixels, patches, rope, merged = torch.randn(1, 3, 32, 48), torch.randn(8, 588), tables(8, 8), tables(2, 2)
    tokenizer = plus.tokenizer
    semantic, pixel = CodeFinder(tokenizer)(pixels, patches, *rope, *merged)
    vectors = tokenizer.semantic_encoder(frames(patches), *rope, *merged)
    assert torch.equal(semantic[0], tokenizer.semantic_quantizer.nearest(vectors))
    vectors = tokenizer.pixel_vectors(pixels)[0].flatten(1).T
    assert torch.equal(pixel[0], tokenizer.pixel_quantizer.nearest(vectors))
    code_map = tokenizer.code_map(semantic.view(1, 2), pixel.view(2, 3))
    assert error(CodeDecoder(tokenizer)(code_map), tokenizer.decode(code_map).clamp(-1, 1)) < 1e-5
