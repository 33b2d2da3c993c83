"""A small model of random weights."""

from __future__ import annotations

import torch

from illume_export.models import (
    DenoiserConfig,
    Illume,
    IllumeConfig,
    ImageTokenizerConfig,
    LanguageModelConfig,
    VaeConfig,
    VisionEncoderConfig,
)

GENERATION_CONFIG = {
    "describe": {"temperature": 0.0, "max_tokens": 12},
    "draw": {"temperature": 1.0, "guidance": 2.0, "steps": 2},
    "edit": {"temperature": 1.0, "guidance": 2.0, "steps": 2},
    "reconstruct": {"steps": 2},
}
# By how much the weights of a random model are enlarged: as they are, every picture looks the same to it, and every
# token repeats itself. With these factors each answer and each drawing is another one.
FACTORS = {
    "vision_encoder.conv": 3.0,
    "embed_tokens": 0.3,
    "adapter.norm": 0.3,
    "q_proj.weight": 3.0,
    "o_proj": 2.0,
    "down_proj": 2.0,
}


def small_config(**language: object) -> IllumeConfig:
    """96x96 pictures of 3x3 codes; every size differs from the others, so that a mixed-up axis fails."""
    sizes = {"hidden_size": 48, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "mlp_size": 40}
    vocabulary = {"vocab_size": 556, "max_context": 160, "tie_word_embeddings": False}
    return IllumeConfig(
        name="illume-small",
        image_size=96,
        grid_size=3,
        level0_segment=(520, 556),
        vision_encoder=VisionEncoderConfig(
            stem_channels=(8, 12), hidden_size=24, num_layers=1, num_heads=2, mlp_size=28
        ),
        language_model=LanguageModelConfig(**{**vocabulary, **sizes, **language}),  # type: ignore[arg-type]
        image_tokenizer=ImageTokenizerConfig(codebook_size=36, code_dim=10, decoder_layers=1),
        vae=VaeConfig(latent_channels=6, channels=(16, 14, 12)),
        denoiser=DenoiserConfig(hidden_size=20, num_layers=2, num_heads=2, mlp_size=22, time_channels=8),
    )


def random_model(config: IllumeConfig, seed: int = 0) -> Illume:
    """A model none of whose tensors has its initial zeros or ones: a dropped bias or scale is seen."""
    torch.manual_seed(seed)
    model = Illume(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name or name.endswith("bias"):
                tensor.add_(0.2 * torch.randn_like(tensor))
            tensor.mul_(next((factor for part, factor in FACTORS.items() if part in name), 1.0))
        model.vae.latent_mean.normal_()
        model.vae.latent_std.uniform_(0.5, 2.0)
        model.image_tokenizer.code_color.uniform_(0, 255).round_()
    return model
