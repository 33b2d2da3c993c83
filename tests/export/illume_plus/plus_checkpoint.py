"""A checkpoint of random weights in the published formats: three folders, each as its trainer would save it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from illume_export.families.illume_plus.config import (
    DiffusionConfig,
    MovqConfig,
    PlusConfig,
    PlusVocabulary,
    SemanticConfig,
    TokenizerConfig,
    UnetConfig,
    VaeDecoderConfig,
    VitConfig,
)
from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.vocabulary import CONTROLS, TAG_SIZES
from illume_export.models import LanguageModelConfig

DATA = Path(__file__).parents[2] / "data" / "illume_plus"
NUM_BYTES = 256
NUM_CODES = (20, 40)
LEVEL0 = NUM_BYTES + len(CONTROLS) + 2 * len(TAG_SIZES)


def small_tokenizer() -> Tokenizer:
    """One token per byte, then the added tokens in the order of the published vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    added = [CONTROLS[name] for name in ("pad", "begin", "end")]
    added += [text for name, text in CONTROLS.items() if name not in ("pad", "begin", "end")]
    added += [f"<{side}_{size}>" for side in ("height", "width") for size in TAG_SIZES]
    added += [f"<|image_level{level}_{i}|>" for level, count in enumerate(NUM_CODES) for i in range(count)]
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    return made


def small_config(*, tied: bool = True) -> PlusConfig:
    """Sizes that differ from each other wherever they may."""
    size = LEVEL0 + sum(NUM_CODES) + 3  # three rows that no token has
    vit = VitConfig(depth=2, width=32, num_heads=2, mlp_size=48, out_size=24)
    tokenizer = TokenizerConfig(
        vit=vit,
        semantic=SemanticConfig(num_blocks=1, width=64, code_dim=4),
        pixel_encoder=MovqConfig(base_channels=32, channels=(64, 32, 32, 32, 32), num_blocks=1, z_channels=8),
        pixel_decoder=MovqConfig(base_channels=32, channels=(64, 32, 32, 32, 32), num_blocks=1, z_channels=16),
        pixel_code_dim=12,
        num_codes=NUM_CODES,
    )
    unet = UnetConfig(
        in_channels=4 + 16,
        channels=(8, 24),
        layers_per_block=1,
        transformer_layers=(0, 2),
        num_heads=(1, 2),
        context_width=12,
        size_embed_width=8,
        norm_groups=4,
    )
    return PlusConfig(
        name="plus-small",
        language_model=LanguageModelConfig(
            vocab_size=size,
            hidden_size=48,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=12,
            mlp_size=40,
            rope_theta=1e6,
            attention_bias=True,
            tie_word_embeddings=tied,
            max_context=2048,
        ),
        vocabulary=PlusVocabulary({}, {}, (LEVEL0, LEVEL0 + 20), (LEVEL0 + 20, LEVEL0 + 60)),
        tokenizer=tokenizer,
        diffusion=DiffusionConfig(
            unet=unet, vae=VaeDecoderConfig(channels=(8, 8, 16, 16), layers_per_block=1, norm_groups=4)
        ),
    )


def published_config() -> PlusConfig:
    """The sizes of the language model under `tests/data`, and of parts that fit it."""
    small = small_config()
    assert small.diffusion is not None
    tokenizer = TokenizerConfig(
        vit=VitConfig(depth=2, width=64, num_heads=4, mlp_size=128, out_size=80),
        semantic=SemanticConfig(num_blocks=1, width=64, code_dim=8),
        pixel_encoder=small.tokenizer.pixel_encoder,
        pixel_decoder=small.tokenizer.pixel_decoder,
        pixel_code_dim=8,
        num_codes=(64, 192),
    )
    language = LanguageModelConfig(
        vocab_size=898,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_size=144,
        rope_theta=1e6,
        attention_bias=True,
        max_context=4096,
    )
    unet = dataclasses.replace(small.diffusion.unet, transformer_layers=(0, 1))
    diffusion = dataclasses.replace(small.diffusion, unet=unet)
    return dataclasses.replace(small, language_model=language, tokenizer=tokenizer, diffusion=diffusion)


def random_plus(config: PlusConfig, seed: int = 0) -> IllumePlus:
    """A model none of whose tensors has its initial zeros or ones: a dropped bias or scale is seen."""
    torch.manual_seed(seed)
    model = IllumePlus(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name or name.endswith("bias"):
                tensor.add_(0.2 * torch.randn_like(tensor))
    return model


def write_plus(model: IllumePlus, folder: Path, *, mllm: Path | None = None) -> Path:
    """The three folders `mllm`, `dualvitok`, `sdxl_decoder` under `folder`; `mllm` is copied where it is given."""
    c = model.config
    if mllm is None:
        _write_mllm(model, folder / "mllm")
    else:
        shutil.copytree(mllm, folder / "mllm")
    _write_dualvitok(model, folder / "dualvitok")
    assert c.diffusion is not None
    assert model.unet is not None
    assert model.vae is not None
    _write_decoder(model, folder / "sdxl_decoder")
    return folder


def mllm_weights(model: IllumePlus) -> dict[str, torch.Tensor]:
    """Names as the trainer of the language model saves them."""
    weights = {}
    for name, tensor in model.mllm.state_dict().items():
        bare = name.removeprefix("language_model.")
        weights[bare if bare != name else f"model.{name}"] = tensor.contiguous()
    return weights


def _write_mllm(model: IllumePlus, folder: Path) -> None:
    c, t = model.config.language_model, model.config.tokenizer
    folder.mkdir(parents=True)
    save_file(mllm_weights(model), folder / "model.safetensors")
    tokenizer = small_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = list(CONTROLS)[3:]
    config = {
        "model_type": "illume_qwen2",
        "hidden_size": c.hidden_size,
        "intermediate_size": c.mlp_size,
        "num_attention_heads": c.num_heads,
        "num_hidden_layers": c.num_layers,
        "num_key_value_heads": c.num_kv_heads,
        "rms_norm_eps": c.rms_norm_eps,
        "rope_theta": c.rope_theta,
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tie_word_embeddings,
        "tokenizer_model_max_length": c.max_context,
        "torch_dtype": "float32",
        "mm_hidden_size": [t.vit.out_size, t.pixel_encoder.z_channels],
        "mm_vision_tower": {"min_pixels": 1024, "max_pixels": 589824},
        "special_tokens_ids": [tokenizer.token_to_id(CONTROLS[name]) for name in names],
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"do_sample": True, "repetition_penalty": 1.05, "top_k": 20})


def _write_dualvitok(model: IllumePlus, folder: Path) -> None:
    c = model.config.tokenizer
    weights = {name: tensor.contiguous() for name, tensor in model.tokenizer.state_dict().items()}
    weights["semantic_decoder.proj_in.weight"] = torch.zeros(64, 4)  # of training alone
    (folder / "qwen2vit").mkdir(parents=True)
    save_file(weights, folder / "pytorch_model.safetensors")

    def movq(part: MovqConfig) -> dict[str, object]:
        return {
            "ch": part.base_channels,
            "ch_mult": [channels // part.base_channels for channels in part.channels],
            "num_res_blocks": part.num_blocks,
            "attn_resolutions": list(part.attention_levels),
            "z_channels": part.z_channels,
        }

    parts = {
        "semantic_encoder": {
            "num_blocks": c.semantic.num_blocks,
            "embed_dim": c.semantic.width,
            "z_channels": c.semantic.code_dim,
        },
        "semantic_quantizer": {"dim": c.semantic.code_dim, "codebook_size": c.num_codes[0]},
        "pixel_quantizer": {"dim": c.pixel_code_dim, "codebook_size": c.num_codes[1]},
        "pixel_encoder": movq(c.pixel_encoder),
        "pixel_decoder": movq(c.pixel_decoder),
    }
    _write_json(folder / "config.json", {"vq_model": {"type": "DualViTok", "config": parts}})
    vit = {
        "depth": c.vit.depth,
        "embed_dim": c.vit.width,
        "num_heads": c.vit.num_heads,
        "mlp_ratio": c.vit.mlp_size / c.vit.width,
        "hidden_size": c.vit.out_size,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    _write_json(folder / "qwen2vit" / "config.json", vit)


def _write_decoder(model: IllumePlus, folder: Path) -> None:
    c = model.config.diffusion
    assert c is not None
    kinds = ["DownBlock2D" if layers == 0 else "CrossAttnDownBlock2D" for layers in c.unet.transformer_layers]
    unet = {
        "in_channels": c.unet.in_channels,
        "block_out_channels": list(c.unet.channels),
        "layers_per_block": c.unet.layers_per_block,
        "transformer_layers_per_block": [max(layers, 1) for layers in c.unet.transformer_layers],
        "attention_head_dim": list(c.unet.num_heads),
        "cross_attention_dim": c.unet.context_width,
        "addition_time_embed_dim": c.unet.size_embed_width,
        "norm_num_groups": c.unet.norm_groups,
        "down_block_types": kinds,
        "addition_embed_type": "text_time",
    }
    vae = {
        "block_out_channels": list(c.vae.channels),
        "layers_per_block": c.vae.layers_per_block,
        "latent_channels": c.vae.latent_channels,
        "norm_num_groups": c.vae.norm_groups,
        "scaling_factor": c.vae.scaling_factor,
    }
    noise = {
        "_class_name": "EulerDiscreteScheduler",
        "num_train_timesteps": c.noise.num_train_steps,
        "beta_start": c.noise.beta_start,
        "beta_end": c.noise.beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "steps_offset": c.noise.steps_offset,
    }
    for name, module, config in (("unet", model.unet, unet), ("vae", model.vae, vae)):
        assert module is not None
        (folder / name).mkdir(parents=True)
        weights = {key: tensor.contiguous() for key, tensor in module.state_dict().items()}
        if name == "vae":
            weights["encoder.conv_in.bias"] = torch.zeros(8)
        save_file(weights, folder / name / "diffusion_pytorch_model.safetensors")
        _write_json(folder / name / "config.json", config)
    (folder / "scheduler").mkdir()
    _write_json(folder / "scheduler" / "scheduler_config.json", noise)


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data))
