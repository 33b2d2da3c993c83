"""The models that are compared, as checkpoints of random weights in the format of Qwen2: what every side can read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from illume_export.checkpoint import Checkpoint
from illume_export.families.illume_plus.checkpoint import checkpoint_from_model
from illume_export.families.illume_plus.config import (
    MovqConfig,
    PlusConfig,
    PlusVocabulary,
    SemanticConfig,
    TokenizerConfig,
    VitConfig,
)
from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.parts import language_model_from_json
from illume_export.families.illume_plus.published import byte_tokenizer, published_config
from illume_export.families.illume_plus.specification import generation_from_json
from illume_export.json_object import json_object_from_file
from illume_export.models import LanguageModelConfig
from illume_export.models.language_model import LanguageModel, rope_tables
from illume_export.random_weights import fill_with_random
from illume_export.weights import deferred_from_weights, weights_from_folder

SEED = 0
PUBLISHED = published_config("illume-plus-3b")  # its vocabulary: 151,936 rows of Qwen2.5 and 131,111 more
QWEN = LanguageModelConfig(
    vocab_size=283_047,
    hidden_size=896,
    num_layers=24,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    mlp_size=4864,
    rope_theta=1e6,
    max_context=4096,
)
TINY = dataclasses.replace(
    QWEN, vocab_size=512, hidden_size=128, num_layers=2, num_heads=8, num_kv_heads=2, head_dim=16, mlp_size=256
)
LAYERS = dataclasses.replace(PUBLISHED.language_model, vocab_size=512, num_layers=4)  # heads and tables hardly count
SMALL_CONTROLS = {name: 257 + i for i, name in enumerate(PUBLISHED.vocabulary.controls)}
SMALL_TAGS = {tag: 300 + i for i, tag in enumerate(PUBLISHED.vocabulary.tags)}
SMALL = PlusVocabulary(SMALL_CONTROLS, SMALL_TAGS, (340, 360), (360, 500))
MOVQ = MovqConfig(base_channels=32, channels=(32, 32, 32, 32, 32), num_blocks=1, z_channels=8)  # and so are its halves


def config_of(name: str, language: LanguageModelConfig, vocabulary: PlusVocabulary) -> PlusConfig:
    """The family's configuration around a language model; the tokenizer beside it is small, as it never runs."""
    tokenizer = TokenizerConfig(
        vit=VitConfig(depth=1, width=32, num_heads=2, mlp_size=32, out_size=16),
        semantic=SemanticConfig(num_blocks=1, width=64, code_dim=4),
        pixel_encoder=MOVQ,
        pixel_decoder=MOVQ,
        pixel_code_dim=4,
        num_codes=(vocabulary.level0[1] - vocabulary.level0[0], vocabulary.level1[1] - vocabulary.level1[0]),
    )
    return PlusConfig(name, language, vocabulary, tokenizer, diffusion=None)


SHAPES = {
    "qwen2.5-0.5b": config_of("qwen2.5-0.5b", QWEN, PUBLISHED.vocabulary),
    "3b-layers": config_of("3b-layers", LAYERS, SMALL),
    "tiny": config_of("tiny", TINY, SMALL),
}


def num_weights(language: LanguageModelConfig) -> int:
    """Numbers in the weights of a language model."""
    with torch.device("meta"):
        return sum(p.numel() for p in LanguageModel(language).parameters())


def write_checkpoint(config: PlusConfig, folder: Path) -> None:
    """The folder of a language model: config.json, model.safetensors, and a tokenizer of bytes."""
    folder.mkdir(parents=True)
    language = config.language_model
    torch.manual_seed(SEED)
    model = LanguageModel(language)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim == 2:
                tensor.normal_(std=tensor.shape[1] ** -0.5)
            else:  # no scale is one and no bias zero: a dropped one is seen
                tensor.normal_(mean=float(name.endswith("norm.weight")), std=0.1)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config_json(config), indent=2))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def checkpoint_from_folder(config: PlusConfig, folder: Path) -> Checkpoint:
    """The checkpoint of the whole family around the folder's language model; of the rest no weight is ever read."""
    weights = weights_from_folder(folder)
    found = language_model_from_json(json_object_from_file(folder / "config.json"))
    with torch.device("meta"):
        model = IllumePlus(dataclasses.replace(config, language_model=found))
    fill_with_random(model, torch.float32)
    language = model.mllm.language_model
    language.load_state_dict({name: deferred_from_weights(weights, name) for name in weights.tensors}, assign=True)
    language.cos, language.sin = rope_tables(found)
    files = {
        "tokenizer.json": byte_tokenizer().to_str().encode(),
        "generation_config.json": json.dumps(generation_from_json({})).encode(),
    }
    made = checkpoint_from_model(model.eval(), folder.name, files, "float32")
    return dataclasses.replace(made, compared=False)  # the tokens are compared instead


def _config_json(config: PlusConfig) -> dict[str, object]:
    language = config.language_model
    end = config.vocabulary.controls["end"]
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": language.vocab_size,
        "hidden_size": language.hidden_size,
        "num_hidden_layers": language.num_layers,
        "num_attention_heads": language.num_heads,
        "num_key_value_heads": language.num_kv_heads,
        "intermediate_size": language.mlp_size,
        "hidden_act": "silu",
        "rope_theta": language.rope_theta,
        "rms_norm_eps": language.rms_norm_eps,
        "max_position_embeddings": language.max_context,
        "tie_word_embeddings": language.tie_word_embeddings,
        "torch_dtype": "float32",
        "bos_token_id": end,
        "eos_token_id": end,
    }
