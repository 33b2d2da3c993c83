"""What numbers of a configuration must hold together: found before a model of absurd size is built."""

from __future__ import annotations

import dataclasses

from illume_export.models import IllumeConfig

STRIDE = 32  # of the vision encoder's stem
MAX_LAYERS = 1000
MAX_SIZE = 1 << 20


def faults_of(config: IllumeConfig) -> list[str]:
    """What is wrong, one sentence each; empty if nothing is."""
    language, vision, denoiser = config.language_model, config.vision_encoder, config.denoiser
    faults = [
        f"{name} is {size}, expected 1 to {largest}"
        for name, size in _sizes(config)
        if not 1 <= size <= (largest := MAX_LAYERS if name.endswith("layers") else MAX_SIZE)
    ]
    if faults:
        return faults
    controls = dataclasses.asdict(config.controls)
    text_start, text_end = config.text_segment
    code_start, code_end = config.level0_segment
    rules = (
        (config.image_size == STRIDE * config.grid_size, f"image_size is not {STRIDE} times grid_size"),
        (language.num_heads % language.num_kv_heads == 0, "num_heads is no multiple of num_kv_heads"),
        (language.head_dim % 2 == 0, "head_dim is odd"),
        (vision.hidden_size % vision.num_heads == 0, "VisionEncoderConfig.hidden_size is no multiple of num_heads"),
        (denoiser.hidden_size % denoiser.num_heads == 0, "DenoiserConfig.hidden_size is no multiple of num_heads"),
        (0 <= text_start < text_end <= code_start < code_end, "text_segment and level0_segment are out of order"),
        (len(set(controls.values())) == len(controls), "two controls have the same id"),
        (all(0 <= i < code_start for i in controls.values()), "a control is not below level0_segment"),
        (
            all(text_start <= controls[name] < text_end for name in ("end", "start_of_image")),
            "the controls end and start_of_image are not in text_segment",
        ),
    )
    return [fault for holds, fault in rules if not holds]


def _sizes(config: IllumeConfig) -> list[tuple[str, int]]:
    parts = (config.vision_encoder, config.language_model, config.image_tokenizer, config.vae, config.denoiser)
    found = [("image_size", config.image_size), ("grid_size", config.grid_size)]
    for part in parts:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if type(number) is int:
                    found.append((f"{type(part).__name__}.{field.name}", number))
    return found
