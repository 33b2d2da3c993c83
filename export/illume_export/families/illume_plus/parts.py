"""Configurations of the parts from their JSON files; what a file leaves out is that of the published model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from illume_export.families.illume_plus.config import (
    DiffusionConfig,
    MovqConfig,
    NoiseConfig,
    SemanticConfig,
    TokenizerConfig,
    UnetConfig,
    VaeDecoderConfig,
    VitConfig,
)
from illume_export.json_object import json_object_from_file
from illume_export.models import LanguageModelConfig
from illume_runtime.errors import InvalidCheckpointError

MAX_CONTEXT = 4096  # what the family is trained with, where config.json does not say
SCHEDULERS = {
    "EulerDiscreteScheduler": "euler",
    "DDIMScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
}
# What the graphs take for granted; a file that says something else is another model.
UNET_FACTS = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "out_channels": 4,
    "norm_eps": 1e-5,
    "use_linear_projection": True,
    "downsample_padding": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "time_cond_proj_dim": None,
}
VAE_FACTS = {"act_fn": "silu", "mid_block_add_attention": True, "use_post_quant_conv": True, "latents_mean": None}
NOISE_FACTS = {
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
SOLVER_FACTS: dict[str, dict[str, Any]] = {
    "EulerDiscreteScheduler": {"interpolation_type": "linear", "timestep_type": "discrete"},
    "DDIMScheduler": {"clip_sample": False, "thresholding": False},
    "DPMSolverMultistepScheduler": {
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "solver_type": "midpoint",
        "lower_order_final": True,
        "thresholding": False,
        "use_lu_lambdas": False,
        "final_sigmas_type": "zero",
    },
}
# What diffusers takes where a scheduler's file does not say it, and is not what we take for granted.
SOLVER_DEFAULTS: dict[str, dict[str, Any]] = {
    "EulerDiscreteScheduler": {"beta_schedule": "linear", "timestep_spacing": "linspace"},
    "DDIMScheduler": {"beta_schedule": "linear", "clip_sample": True},
    "DPMSolverMultistepScheduler": {"beta_schedule": "linear", "timestep_spacing": "linspace"},
}
FINAL_SIGMAS = {"zero": "zero", "sigma_min": "first"}


def language_model_from_json(data: Mapping[str, Any]) -> LanguageModelConfig:
    """The decoder's sizes; config.json of Qwen2."""
    width, heads = int(data["hidden_size"]), int(data["num_attention_heads"])
    return LanguageModelConfig(
        vocab_size=int(data["vocab_size"]),
        hidden_size=width,
        num_layers=int(data["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(data["num_key_value_heads"]),
        head_dim=width // heads,
        mlp_size=int(data["intermediate_size"]),
        rope_theta=float(data["rope_theta"]),
        rms_norm_eps=float(data["rms_norm_eps"]),
        attention_bias=True,
        tie_word_embeddings=bool(data.get("tie_word_embeddings", False)),
        max_context=int(data.get("tokenizer_model_max_length") or MAX_CONTEXT),
    )


def tokenizer_from_folder(folder: Path) -> TokenizerConfig:
    """The tokenizer's sizes: those of config.json and qwen2vit/config.json where the folder has them."""
    if not (folder / "config.json").is_file():
        return TokenizerConfig()
    try:
        parts = json_object_from_file(folder / "config.json")["vq_model"]["config"]
        semantic, pixel = parts["semantic_encoder"], parts["pixel_quantizer"]
        vit = VitConfig()
        if (folder / "qwen2vit" / "config.json").is_file():
            vit = _vit_from_json(json_object_from_file(folder / "qwen2vit" / "config.json"))
        return TokenizerConfig(
            vit=vit,
            semantic=SemanticConfig(semantic["num_blocks"], semantic["embed_dim"], semantic["z_channels"]),
            pixel_encoder=_movq_from_json(parts["pixel_encoder"]),
            pixel_decoder=_movq_from_json(parts["pixel_decoder"]),
            pixel_code_dim=int(pixel["dim"]),
            num_codes=(int(parts["semantic_quantizer"]["codebook_size"]), int(pixel["codebook_size"])),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidCheckpointError(
            f"{folder / 'config.json'}: is no configuration of a DualViTok tokenizer ({error!r})"
        ) from error


def diffusion_from_folder(folder: Path) -> DiffusionConfig:
    """The diffusion decoder's sizes, from the files of a pipeline of diffusers. Raises InvalidCheckpointError."""
    paths = {name: folder / name / "config.json" for name in ("unet", "vae")}
    paths["scheduler"] = folder / "scheduler" / "scheduler_config.json"
    data = {name: json_object_from_file(path) for name, path in paths.items()}
    kind = str(data["scheduler"].get("_class_name"))
    said = {**data, "scheduler": {**SOLVER_DEFAULTS.get(kind, {}), **data["scheduler"]}}
    noise_facts = {**NOISE_FACTS, **SOLVER_FACTS.get(kind, {})}
    faults = [
        f"{paths[name]}: {key} is {said[name][key]!r}, expected {value!r}"
        for name, facts in (("unet", UNET_FACTS), ("vae", VAE_FACTS), ("scheduler", noise_facts))
        for key, value in facts.items()
        if key in said[name] and said[name][key] != value
    ]
    if kind not in SCHEDULERS:
        faults.append(f"{paths['scheduler']}: the scheduler is {kind!r}, expected one of {', '.join(SCHEDULERS)}")
    if faults:
        raise InvalidCheckpointError(f"{'; '.join(faults)}; this is another kind of decoder")
    try:
        return DiffusionConfig(
            _unet_from_json(data["unet"]), _vae_from_json(data["vae"]), _noise_from_json(data["scheduler"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidCheckpointError(
            f"{folder}: the sizes of unet or vae, or the scheduler, are malformed ({error!r})"
        ) from error


def _vit_from_json(data: Mapping[str, Any]) -> VitConfig:
    width = int(data["embed_dim"])
    return VitConfig(
        depth=int(data["depth"]),
        width=width,
        num_heads=int(data["num_heads"]),
        mlp_size=int(width * data["mlp_ratio"]),
        out_size=int(data["hidden_size"]),
        patch_size=int(data["patch_size"]),
        merge_size=int(data["spatial_merge_size"]),
        temporal_patch_size=int(data["temporal_patch_size"]),
    )


def _movq_from_json(data: Mapping[str, Any]) -> MovqConfig:
    base = int(data["ch"])
    return MovqConfig(
        base_channels=base,
        channels=tuple(base * int(factor) for factor in data["ch_mult"]),
        num_blocks=int(data["num_res_blocks"]),
        attention_levels=tuple(int(level) for level in data["attn_resolutions"]),
        z_channels=int(data["z_channels"]),
    )


def _unet_from_json(data: Mapping[str, Any]) -> UnetConfig:
    channels = tuple(int(n) for n in data["block_out_channels"])
    layers = data["transformer_layers_per_block"]
    per_level = layers if isinstance(layers, list) else [layers] * len(channels)
    heads = data.get("num_attention_heads") or data["attention_head_dim"]
    kinds = data["down_block_types"]
    return UnetConfig(
        in_channels=int(data["in_channels"]),
        channels=channels,
        layers_per_block=int(data["layers_per_block"]),
        transformer_layers=tuple(
            int(count) if kind == "CrossAttnDownBlock2D" else 0 for count, kind in zip(per_level, kinds, strict=True)
        ),
        num_heads=tuple(int(n) for n in (heads if isinstance(heads, list) else [heads] * len(channels))),
        context_width=int(data["cross_attention_dim"]),
        size_embed_width=int(data["addition_time_embed_dim"]),
        norm_groups=int(data["norm_num_groups"]),
    )


def _vae_from_json(data: Mapping[str, Any]) -> VaeDecoderConfig:
    return VaeDecoderConfig(
        channels=tuple(int(n) for n in data["block_out_channels"]),
        layers_per_block=int(data["layers_per_block"]),
        latent_channels=int(data["latent_channels"]),
        norm_groups=int(data["norm_num_groups"]),
        scaling_factor=float(data["scaling_factor"]),
    )


def _noise_from_json(data: Mapping[str, Any]) -> NoiseConfig:
    final = FINAL_SIGMAS[data.get("final_sigmas_type", "zero")]
    if data["_class_name"] == "DDIMScheduler":
        final = "zero" if data.get("set_alpha_to_one", True) else "first"
    return NoiseConfig(
        solver=SCHEDULERS[data["_class_name"]],
        final_sigma=final,
        num_train_steps=int(data["num_train_timesteps"]),
        beta_start=float(data["beta_start"]),
        beta_end=float(data["beta_end"]),
        steps_offset=int(data.get("steps_offset", 0)),
    )
