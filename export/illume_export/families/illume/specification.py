"""What the host must know of a model of the `illume` family: the dictionaries of `docs/bundle.md`."""

from __future__ import annotations

import dataclasses
from typing import Any

from illume_export.language_specification import model_and_vocabulary
from illume_export.models import IllumeConfig

MAX_STEPS = 100


def specification_from_config(config: IllumeConfig) -> dict[str, Any]:
    """The keys `model`, `vocabulary`, `grammar`, `prompts`, `preprocessing` and `scheduler` of `bundle.json`."""
    return {
        **model_and_vocabulary(
            config.language_model, segments_from_config(config), dataclasses.asdict(config.controls)
        ),
        "grammar": _grammar(config),
        "prompts": {
            "begin": [{"control": "begin"}],
            "user": [{"control": "user"}, {"slot": "text"}, {"slot": "images"}, {"control": "assistant"}],
            "end": [{"control": "end"}],
            "defaults": {"describe": "describe the picture", "reconstruct": "draw the same picture"},
            "unconditional_text": "",
        },
        "preprocessing": {
            "image_size": [config.image_size, config.image_size],
            "resample": "bicubic",
            "fit": "pad",
            "pad_color": [255, 255, 255],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "scheduler": {
            "type": "flow",
            "solver": "ab2",
            "latent_shape": [config.vae.latent_channels, config.latent_size, config.latent_size],
            "shift": 1.0,
            "default_steps": 10,
            "max_steps": MAX_STEPS,
        },
    }


def segments_from_config(config: IllumeConfig) -> dict[str, tuple[int, int]]:
    """Vocabulary segment -> [start, end)."""
    return {"text": config.text_segment, "level0": config.level0_segment}


def _grammar(config: IllumeConfig) -> dict[str, Any]:
    rows = columns = config.grid_size

    def program(cells: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"force": ["start_of_image"]},
            {"repeat": rows, "body": [cells, {"force": ["end_of_line"]}]},
            {"force": ["end_of_image"]},
        ]

    resolution = {
        "name": f"{config.image_size}x{config.image_size}",
        "width": config.image_size,
        "height": config.image_size,
        "grids": [[rows, columns]],
        "output": program({"sample": "level0", "count": columns}),
        "input": program({"embed": columns}),
    }
    return {"image": {"resolutions": [resolution]}}
