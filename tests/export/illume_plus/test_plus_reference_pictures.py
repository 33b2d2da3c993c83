"""What the reference's tokenizer and diffusion decoder computed, over the stages of a bundle of its own weights."""

from __future__ import annotations

import re

import numpy as np
import pytest
import test_plus_modules
import test_plus_reference
from reference_sides import Setup, anchored, close, picture

from illume_kernels.flow import guided_step
from illume_runtime import denoising
from illume_runtime.denoising import denoised
from illume_runtime.detokenizing import _code_map
from illume_runtime.images import image_from_pixels
from illume_runtime.pipeline import ImageSampling
from illume_runtime.schedule import Codes

SIZE = "256x256"
UNDERSTOOD = ["und_square", "und_landscape", "und_portrait"]
DRAWN = ["gen_square", "gen_landscape", "gen_portrait"]


def codes_of(setup: Setup, prefix: str) -> Codes:
    return tuple(setup.arrays[f"{prefix}{kind}_indices"].astype(np.int64) for kind in ("semantic", "pixel"))


def decoded(setup: Setup, code_map: np.ndarray) -> np.ndarray:
    """[3, Y, X] of a code map, by the fast decoder."""
    found: np.ndarray = setup.pipeline._model.stages.run("vq_decoder", {"code_map": code_map})["pixels"][0]
    return found


def code_map_of(setup: Setup, codes: Codes) -> np.ndarray:
    """[1, C, Y, X] of codes of any grid."""
    stages = setup.pipeline._model.stages
    grids = tuple(level.shape for level in codes)
    schedule = type("AnyGrid", (), {"grids": grids})
    return _code_map(stages, schedule, [codes])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*UNDERSTOOD, *DRAWN])
def test_pictures_become_codes(whole: Setup, name: str) -> None:
    kind, shape = name.split("_")
    vision = whole.pipeline._model.vision
    image = picture(shape) if kind == "und" else anchored(whole, shape)
    feeds, grids = vision._feeds(image)  # type: ignore[attr-defined]
    rope = test_plus_modules.rope(4)
    merged = test_plus_modules.patch_rope(rope, grids[0], 1)
    outputs = vision.stages.run("image_tokenizer", {**feeds, "merged_cos": merged[0], "merged_sin": merged[1]})  # type: ignore[attr-defined]
    for level, part in enumerate(("semantic", "pixel")):
        expected = whole.arrays[f"3/{name}_{part}_indices"]
        sure = whole.arrays[f"3/{name}_{part}_margin"].ravel() > 1e-3  # nearer ones: the manifest's tolerance
        assert expected.shape == grids[level]
        np.testing.assert_array_equal(outputs[f"codes_level{level}"][0][sure], expected.ravel()[sure])


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_codes_become_drafts(whole: Setup, name: str) -> None:
    code_map = code_map_of(whole, codes_of(whole, f"3/{name}_"))
    pixels = decoded(whole, code_map)
    if name == "und_square":
        close(code_map[0], whole.arrays["3/und_square_merged_codes"], atol=1e-5)
        close(pixels[:, ::2, ::2], whole.arrays["3/und_square_decoded_every2"].clip(-1, 1), atol=1e-4)
        close(pixels[:, 96:160, 96:160], whole.arrays["3/und_square_decoded_crop64"].clip(-1, 1), atol=1e-4)
    else:
        close(pixels[:, ::4, ::4], whole.arrays[f"3/{name}_decoded_every4"].clip(-1, 1), atol=1e-4)


def test_what_was_drawn_becomes_a_draft(whole: Setup) -> None:
    arrays, schedule = whole.arrays, whole.pipeline._model.schedules[SIZE]
    codes = codes_of(whole, "6/")
    np.testing.assert_array_equal(schedule.tokens_of(codes), arrays["6/tokens"][:-1])
    code_map = code_map_of(whole, codes)
    close(code_map[0], arrays["8/vq_embeds"], atol=1e-5)
    close(code_map[0], arrays["8/vq_embeds_fp16"], atol=2e-3)
    pixels = decoded(whole, code_map)
    close(pixels[:, ::2, ::2], arrays["6/vq_decoded_every2"].clip(-1, 1), atol=1e-4)
    levels = np.asarray(image_from_pixels(pixels))[::2, ::2].astype(int)
    assert np.abs(levels - arrays["6/vq_image_u8_every2"]).max() <= 1


def latents_of(
    whole: Setup, monkeypatch: pytest.MonkeyPatch, code_map: np.ndarray, guidance: float
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """The latents after every step, the denoiser's outputs of the first ([uncond, cond]), and its first input."""
    start, model = whole.arrays["8/initial_latents"][0], whole.pipeline._model
    after: list[np.ndarray] = []
    first: list[np.ndarray] = []
    given: list[np.ndarray] = []

    def recorded(x: np.ndarray, cond: np.ndarray, uncond: np.ndarray | None, *args: object, **table: float) -> object:
        if not first:
            given.append(x)
            first.extend(([] if uncond is None else [uncond[0]]) + [cond[0]])
        new = guided_step(x, cond, uncond, *args, **table)  # type: ignore[arg-type]
        after.append(new[0][0].copy())
        return new

    monkeypatch.setattr(denoising, "normal", lambda *args: start)
    monkeypatch.setattr(denoising, "guided_step", recorded)
    sampling = ImageSampling(steps=4, diffusion_guidance=guidance)
    schedule = model.schedules[SIZE]
    denoised(model.stages, schedule, code_map, [0], sampling, on_progress=None, cancel=None)
    return after, first, given[0]


@pytest.mark.parametrize("guidance", [1.5, 1.0])
def test_latents_after_every_step_and_the_picture(
    whole: Setup, monkeypatch: pytest.MonkeyPatch, guidance: float
) -> None:
    arrays, name = whole.arrays, f"8/g{guidance}_"
    code_map = code_map_of(whole, codes_of(whole, "6/"))
    after, first, given = latents_of(whole, monkeypatch, code_map, guidance)
    close(np.stack(first)[:, :, ::2, ::2], arrays[f"{name}unet_out_step0_every2"], atol=1e-3, rtol=1e-3)
    close(np.stack(after), arrays[f"{name}latents"], atol=2e-3, rtol=1e-3)
    if guidance == 1.5:
        scaled = given[0] / np.sqrt(arrays["8/sigmas"][0] ** 2 + 1)
        repeated = code_map[0].repeat(4, axis=1).repeat(4, axis=2)
        close(np.concatenate((scaled, repeated))[:, ::4, ::4], arrays[f"{name}unet_in_step0_cond_every4"], atol=1e-4)
    pixels = whole.pipeline._model.stages.run("vae_decoder", {"latents": after[-1][None]})["pixels"][0]
    close(pixels[:, ::8, ::8], arrays[f"{name}decoded_every8"].clip(-1, 1), atol=5e-3)
    close(pixels[:, 224:288, 224:288], arrays[f"{name}decoded_crop64"].clip(-1, 1), atol=5e-3)
    levels = np.asarray(image_from_pixels(pixels))[::4, ::4].astype(int)
    assert np.abs(levels - arrays[f"{name}image_u8_every4"]).max() <= 2


def test_codes_in_half_precision_as_the_reference_ships_them(whole: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    after, _, _ = latents_of(whole, monkeypatch, whole.arrays["8/vq_embeds_fp16"][None], 1.5)
    close(after[-1], whole.arrays["8/g1.5_fp16embeds_final_latents"], atol=5e-3)


# Array names of the reference -> the tests that compare them: of PyTorch, and of the bundle.
COMPARED = {
    r"1/.*_u8": ("test_pixels",),
    r"2/.*_scaled_patches_every8": ("test_patches",),
    r"2/.*_(semantic|pixel)(_every4)?": ("test_the_tower_sees_what_it_should",),
    r"2/.*_image_embeds": ("test_pictures_as_the_language_model_sees_them",),
    r"2/und_square_projected": ("test_features_are_projected",),
    r"2/special_token_embeds": ("test_control_tokens",),
    r"3/.*_(indices|margin)": ("test_pictures_become_the_same_codes", "test_pictures_become_codes"),
    r"3/.*_h_(semantic|pixel)": ("test_pictures_become_the_same_codes",),
    r"3/und_square_semantic_target": ("test_the_target_of_the_semantic_encoder",),
    r"3/.*_(merged_codes|decoded_(every.|crop64))": ("test_codes_become_the_same_picture", "test_codes_become_drafts"),
    r"5/.*": ("test_the_language_model_answers_the_same", "test_answers"),
    r"6/(steps|cond_.*|uncond_.*|cfg_.*|greedy_.*)": ("test_both_sides_of_guidance_at_every_kind_of_step",),
    r"6/s[12]_(processed|final)": ("test_sampled_scores",),
    r"6/(cfg1_|norep_|cfg1_norep_)?(tokens|margins)": ("test_margins_of_every_code",),
    r"6/app_tokens": ("test_the_other_chain_of_the_reference_draws_the_same",),
    r"6/batch2_.*": ("test_a_batch_of_two",),
    r"6/(semantic_indices|pixel_indices|vq_.*)": ("test_what_was_drawn_becomes_a_draft",),
    r"7/.*prefill_logits": ("test_an_edit_begins",),
    r"7/(cfg1_)?(tokens|margins)": ("test_margins_of_an_edit",),
    r"8/vq_embeds(_fp16)?": ("test_what_was_drawn_becomes_a_draft",),
    r"8/(timesteps|sigmas|time_ids)": ("test_the_scheduler_and_the_size",),
    r"8/(initial_latents|g1..*_(latents|unet_.*|decoded_.*|image_.*))": (
        "test_the_unet_and_the_vae_draw_the_same",
        "test_latents_after_every_step_and_the_picture",
    ),
    r"8/g1.5_fp16embeds_final_latents": ("test_codes_in_half_precision_as_the_reference_ships_them",),
}
# The decoder of semantic features serves the tokenizer's training alone; nothing here has it.
OF_TRAINING = {"3/und_square_semantic_decoded"}


def test_every_array_of_the_reference_is_compared(whole: Setup) -> None:
    left = [name for name in whole.arrays if not any(re.fullmatch(pattern, name) for pattern in COMPARED)]
    assert set(left) == OF_TRAINING
    known = {**vars(test_plus_modules), **vars(test_plus_reference), **globals()}
    assert {test for tests in COMPARED.values() for test in tests} <= set(known)
