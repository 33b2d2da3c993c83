"""The plain modules against what the reference implementation computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from illume_export.families.illume_plus import folders_in, plus_from_folders
from illume_export.families.illume_plus.models import IllumePlus
from illume_runtime.manifest import PatchSpec
from illume_runtime.patches import merged_grid, patch_rope, patches_of

Arrays = dict[str, np.ndarray]
CLIP = PatchSpec(14, 2, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
GRIDS = {"und_square": (9, 9), "gen_square": (18, 18), "gen_landscape": (12, 16), "gen_portrait": (26, 13)}
UNDERSTOOD = ["und_square", "und_landscape", "und_portrait"]
DRAWN = ["gen_square", "gen_landscape", "gen_portrait"]


@pytest.fixture(scope="module")
def model(reference: Path) -> IllumePlus:
    return plus_from_folders(folders_in(reference))


@pytest.fixture(scope="module")
def golden(reference: Path) -> Arrays:
    """Every array, by its name in its file; names are unique but for those of the two requests."""
    found: Arrays = {}
    for path in sorted((reference / "golden").glob("*.npz")):
        with np.load(path) as arrays:
            found.update({f"{path.name[0]}/{name}": arrays[name] for name in arrays})
    return found


def rope(width: int, places: int = 80) -> np.ndarray:
    """[2, places, width / 4] by the definition, in float64."""
    rates = 10000.0 ** (-np.arange(0, width // 2, 2) / (width // 2))
    angles = np.arange(places)[:, None] * rates
    return np.stack((np.cos(angles), np.sin(angles))).astype(np.float32)


def seen(golden: Arrays, name: str) -> dict[str, torch.Tensor]:
    """The inputs of the vision modules; patches of two equal frames, as the checkpoint's weights take them."""
    levels = golden[f"1/{name}_u8"]
    pixels = (((levels.astype(np.float64) * (1 / 255)).astype(np.float32) - 0.5) / 0.5).astype(np.float32)
    _, height, width = pixels.shape
    grid = GRIDS.get(name) or merged_grid((width, height), CLIP)
    patches = patches_of(pixels, grid, CLIP).reshape(-1, 3, 1, 196).repeat(2, axis=2).reshape(-1, 1176)
    cos, sin = patch_rope(rope(16), grid, 2)
    merged_cos, merged_sin = patch_rope(rope(4), grid, 1)
    arrays = {"pixels": pixels[None], "patches": patches, "cos": cos, "sin": sin}
    arrays |= {"merged_cos": merged_cos, "merged_sin": merged_sin}
    return {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}


def close(got: torch.Tensor | np.ndarray, expected: np.ndarray, atol: float, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(got), expected, atol=atol, rtol=rtol)


def test_patches(golden: Arrays) -> None:
    close(seen(golden, "und_square")["patches"][::8], golden["2/und_square_scaled_patches_every8"], 5e-6)


@pytest.mark.parametrize("name", [*UNDERSTOOD, *DRAWN])
def test_the_tower_sees_what_it_should(model: IllumePlus, golden: Arrays, name: str) -> None:
    x = seen(golden, name)
    with torch.no_grad():
        semantic, pixel = model.mllm.vision_tower(x["pixels"], x["patches"], x["cos"], x["sin"])
    every = 1 if f"2/{name}_semantic" in golden else 4
    suffix = "" if every == 1 else "_every4"
    close(semantic[::every], golden[f"2/{name}_semantic{suffix}"], 3e-5)  # two blocks' sums, of features of size 4
    close(pixel[::every], golden[f"2/{name}_pixel{suffix}"], 1e-5)


def test_features_are_projected(model: IllumePlus, golden: Arrays) -> None:
    semantic, pixel = (torch.from_numpy(golden[f"2/und_square_{kind}"]) for kind in ("semantic", "pixel"))
    with torch.no_grad():
        close(model.mllm.mm_projector(semantic, pixel), golden["2/und_square_projected"], 1e-5)


@pytest.mark.parametrize("name", [*UNDERSTOOD, *DRAWN])
def test_pictures_become_the_same_codes(model: IllumePlus, golden: Arrays, name: str) -> None:
    x = seen(golden, name)
    tokenizer = model.tokenizer
    with torch.no_grad():
        semantic = tokenizer.semantic_encoder(x["patches"], x["cos"], x["sin"], x["merged_cos"], x["merged_sin"])
        pixel = tokenizer.pixel_vectors(x["pixels"])[0]
        codes = {
            "semantic": tokenizer.semantic_quantizer.nearest(semantic),
            "pixel": tokenizer.pixel_quantizer.nearest(pixel.flatten(1).T),
        }
    if f"3/{name}_h_semantic" in golden:
        expected = golden[f"3/{name}_h_semantic"]
        close(semantic.T.reshape(expected.shape), expected, 5e-5)
        close(pixel, golden[f"3/{name}_h_pixel"], 2e-5)
    for kind, got in codes.items():
        expected = golden[f"3/{name}_{kind}_indices"]
        sure = golden[f"3/{name}_{kind}_margin"].ravel() > 1e-4  # nearer ones are equal within float32
        assert np.array_equal(got.numpy()[sure], expected.ravel()[sure])


def test_the_target_of_the_semantic_encoder(model: IllumePlus, golden: Arrays) -> None:
    x = seen(golden, "und_square")
    with torch.no_grad():
        features = model.tokenizer.semantic_encoder.model(x["patches"], x["cos"], x["sin"])
        normed = torch.nn.functional.layer_norm(features, features.shape[-1:], eps=1e-6)
    expected = golden["3/und_square_semantic_target"]
    close(normed.T.reshape(expected.shape), expected, 1e-4)


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_codes_become_the_same_picture(model: IllumePlus, golden: Arrays, name: str) -> None:
    semantic, pixel = (torch.from_numpy(golden[f"3/{name}_{kind}_indices"]).long() for kind in ("semantic", "pixel"))
    with torch.no_grad():
        code_map = model.tokenizer.code_map(semantic, pixel)
        pixels = model.tokenizer.decode(code_map)[0]
    if name == "und_square":
        close(code_map[0], golden["3/und_square_merged_codes"], 1e-6)
        close(pixels[:, ::2, ::2], golden["3/und_square_decoded_every2"], 2e-5)
        close(pixels[:, 96:160, 96:160], golden["3/und_square_decoded_crop64"], 2e-5)
    else:
        close(pixels[:, ::4, ::4], golden[f"3/{name}_decoded_every4"], 2e-5)


@pytest.mark.parametrize("name", ["square", "landscape", "portrait"])
def test_the_language_model_answers_the_same(model: IllumePlus, golden: Arrays, reference: Path, name: str) -> None:
    prompt = json.loads((reference / "golden" / "prompts.json").read_text())[f"understanding_{name}"]["ids"]
    at = prompt.index(-200)
    language = model.mllm.language_model
    with torch.no_grad():
        before, after = (language.embed(torch.tensor(ids)) for ids in (prompt[:at], prompt[at + 1 :]))
        picture = torch.from_numpy(golden[f"2/und_{name}_image_embeds"])
        tokens = torch.from_numpy(golden[f"5/{name}_tokens"]).long()
        hidden = language(torch.cat((before, picture, after, language.embed(tokens[:-1])))[None])[0]
        logits = language.logits(hidden[-len(tokens) :], 0, language.config.vocab_size)
    close(logits[0], golden[f"5/{name}_prefill_logits"], 2e-4)
    shown = logits if len(golden[f"5/{name}_logits_all"]) == len(tokens) else logits[[0, len(tokens) // 2, -1]]
    close(shown, golden[f"5/{name}_logits_all"], 2e-4)


def test_the_unet_and_the_vae_draw_the_same(model: IllumePlus, golden: Arrays) -> None:
    assert model.unet is not None
    assert model.vae is not None
    code_map = torch.from_numpy(golden["8/vq_embeds"])[None].repeat_interleave(4, -1).repeat_interleave(4, -2)
    both = torch.cat((torch.zeros_like(code_map), code_map))
    sigmas, times = golden["8/sigmas"].astype(np.float64), golden["8/timesteps"]
    for guidance in (1.5, 1.0):
        x = torch.from_numpy(golden["8/initial_latents"]) * float(np.sqrt(sigmas[0] ** 2 + 1))
        for i, time in enumerate(times):
            scaled = x / float(np.sqrt(sigmas[i] ** 2 + 1))
            with torch.no_grad():
                noise = model.unet(scaled.repeat(2, 1, 1, 1), both, torch.full((2,), time), torch.full((2,), 11))
            if i == 0:
                expected = golden[f"8/g{guidance}_unet_out_step0_every2"]
                close(noise[-len(expected) :, :, ::2, ::2], expected, 1e-5)
            x = x + float(sigmas[i + 1] - sigmas[i]) * (noise[:1] + guidance * (noise[1:] - noise[:1]))
            close(x[0], golden[f"8/g{guidance}_latents"][i], 2e-5)
        with torch.no_grad():
            pixels = model.vae(x)[0]
        close(pixels[:, ::8, ::8], golden[f"8/g{guidance}_decoded_every8"], 2e-5)
        close(pixels[:, 224:288, 224:288], golden[f"8/g{guidance}_decoded_crop64"], 2e-5)
