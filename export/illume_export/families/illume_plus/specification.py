"""What the host must know of a model of the `illume_plus` family: the dictionaries of `docs/bundle.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from illume_export.families.illume_plus.config import DiffusionConfig, PlusConfig
from illume_export.families.illume_plus.resolutions import ANCHORS, FINE_STRIDE, SIZES, PictureSize
from illume_export.language_specification import model_and_vocabulary
from illume_runtime.manifest import AnySizePreprocessing, PatchSpec
from illume_runtime.typed_json import json_from_value

MAX_SIDE = 4096
DIFFUSION_STEPS = 20
MAX_STEPS = 100
LATENTS_PER_CODE = 4  # the diffusion decoder draws at twice the size, its latents are an eighth of that
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
LEVELS = (
    {"before": ["start_of_image", "start_of_level0"], "row_end": ["end_of_line"], "after": ["end_of_level0"]},
    {"before": ["start_of_level1"], "row_end": ["end_of_line"], "after": ["end_of_level1", "end_of_image"]},
)
GENERATION = {
    "describe": {"temperature": 0.0, "max_tokens": 1024},
    "draw": {
        "temperature": 1.0,
        "top_k": 2048,
        "top_k_level1": 6144,
        "top_p": 1.0,
        "guidance": 2.0,
        "diffusion_guidance": 2.0,
    },
    "edit": {
        "temperature": 0.7,
        "top_k": 512,
        "top_k_level1": 1536,
        "top_p": 0.8,
        "guidance": 1.5,
        "diffusion_guidance": 2.0,
    },
    "reconstruct": {"diffusion_guidance": 2.0},
}


def specification_from_config(config: PlusConfig) -> dict[str, Any]:
    """The keys `model`, `vocabulary`, `grammar`, `prompts`, `preprocessing` and `scheduler` of `bundle.json`."""
    return {
        **model_and_vocabulary(config.language_model, segments_from_config(config), controls_from_config(config)),
        "grammar": {"image": {"resolutions": [_resolution(size) for size in SIZES], "any_input": list(LEVELS)}},
        "prompts": _prompts(),
        "preprocessing": json_from_value(preprocessing_from_config(config)),
        "scheduler": _scheduler(config),
    }


def segments_from_config(config: PlusConfig) -> dict[str, tuple[int, int]]:
    """Vocabulary segment -> [start, end)."""
    return {
        "text": (0, config.vocabulary.level0[0]),
        "level0": config.vocabulary.level0,
        "level1": config.vocabulary.level1,
    }


def controls_from_config(config: PlusConfig) -> dict[str, int]:
    """Control -> id, those of size tags among them."""
    tags = {f"{side}_{size}": identifier for (side, size), identifier in config.vocabulary.tags.items()}
    return {**config.vocabulary.controls, **tags}


def preprocessing_from_config(config: PlusConfig) -> AnySizePreprocessing:
    """How pictures are read."""
    vit = config.tokenizer.vit
    return AnySizePreprocessing(
        multiple=FINE_STRIDE,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        max_side=MAX_SIDE,
        resample="bicubic",
        anchors=tuple(size.name for size in ANCHORS),
        anchor_resample="lanczos",
        pad_color=(255, 255, 255),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        patches=PatchSpec(vit.patch_size, vit.merge_size, CLIP["mean"], CLIP["std"]),
    )


def generation_from_json(data: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling defaults: task -> name -> number.

    A repetition penalty of the checkpoint is one for text: it would distort visual tokens, which do repeat.
    """
    generation = {task: dict(options) for task, options in GENERATION.items()}
    penalty = data.get("repetition_penalty")
    if isinstance(penalty, (int, float)):
        generation["describe"]["repetition_penalty"] = float(penalty)
    return generation


def _resolution(size: PictureSize) -> dict[str, Any]:
    fine = (size.height // FINE_STRIDE, size.width // FINE_STRIDE)

    def program(cells: Any) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for number, (level, (rows, columns)) in enumerate(zip(LEVELS, (size.coarse, fine), strict=True)):
            body = [cells(number, columns), {"force": level["row_end"]}]
            parts += [{"force": level["before"]}, {"repeat": rows, "body": body}, {"force": level["after"]}]
        return parts

    return {
        "name": size.name,
        "width": size.width,
        "height": size.height,
        "grids": [list(size.coarse), list(fine)],
        "output": program(lambda level, columns: {"sample": f"level{level}", "count": columns}),
        "input": program(lambda level, columns: {"embed": columns}),
        "tag": [f"height_{size.height}", f"width_{size.width}"],
    }


def _prompts() -> dict[str, Any]:
    begin, end, newline = {"control": "begin"}, {"control": "end"}, {"text": "\n"}
    text, size, picture = {"slot": "text"}, {"slot": "resolution"}, {"slot": "images"}
    answer = [end, newline, begin, {"text": "assistant\n"}]
    drawn = [*answer, size]

    def user(*parts: dict[str, str]) -> list[dict[str, str]]:
        return [begin, {"text": "user\n"}, *parts]

    return {
        "begin": [begin, {"text": "system\nYou are a helpful assistant."}, end, newline],
        "user": [*user({"slot": "images", "after": "\n"}, text), *answer],
        "end": [end, newline],
        "defaults": {"describe": "Describe the image in detail.", "reconstruct": "Reconstruct the image."},
        "unconditional_text": "",
        "tasks": {
            "draw": {
                "conditional": [
                    *user({"text": "Generate an image of "}, size, {"text": ", the content of image is "}),
                    *(text, newline, *drawn),
                ],
                "unconditional": [*user({"text": "Generate a random image of "}, size, newline), *drawn],
            },
            "edit": {
                "conditional": [
                    *user(size, picture, {"text": "\nPlease edit the image according to the instruction: "}),
                    *(text, newline, *drawn),
                ],
                "unconditional": [
                    *user(size, picture, {"text": "\nReconstruct the image according to the given image\n"}),
                    *drawn,
                ],
            },
        },
    }


def _scheduler(config: PlusConfig) -> dict[str, Any]:
    """That of the diffusion decoder; of a checkpoint without one the published decoder's, which nothing runs."""
    diffusion = config.diffusion or DiffusionConfig()
    noise = diffusion.noise
    return {
        "num_train_steps": noise.num_train_steps,
        "beta_start": noise.beta_start,
        "beta_end": noise.beta_end,
        "steps_offset": noise.steps_offset,
        "solver": noise.solver,
        "latent_channels": diffusion.vae.latent_channels,
        "latents_per_code": LATENTS_PER_CODE,
        "size_ids": {size.name: size.size_id for size in SIZES},
        "default_steps": DIFFUSION_STEPS,
        "max_steps": MAX_STEPS,
        "final_sigma": noise.final_sigma,
    }
