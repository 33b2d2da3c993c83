"""The published models by name: their sizes, and a checkpoint of random weights of these sizes."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from illume_export.checkpoint import Checkpoint
from illume_export.families.illume_plus.checkpoint import checkpoint_from_model
from illume_export.families.illume_plus.config import DiffusionConfig, PlusConfig, PlusVocabulary, TokenizerConfig
from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.specification import generation_from_json
from illume_export.families.illume_plus.vocabulary import CONTROLS, TAG_SIZES
from illume_export.models import LanguageModelConfig
from illume_export.models.language_model import rope_tables
from illume_export.random_weights import fill_with_random

# Ids of the published vocabulary: that of Qwen2.5, then the image tokens, the size tags, the codes of both levels.
TEXT_END, FIRST_IMAGE_TOKEN = 151_643, 151_665
LANGUAGE_MODELS = {
    "illume-plus-3b": LanguageModelConfig(
        vocab_size=283_047,
        hidden_size=2048,
        num_layers=36,
        num_heads=16,
        num_kv_heads=2,
        head_dim=128,
        mlp_size=11_008,
        rope_theta=1e6,
        max_context=4096,
    ),
    "illume-plus-7b": LanguageModelConfig(
        vocab_size=283_175,
        hidden_size=3584,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        mlp_size=18_944,
        rope_theta=1e6,
        tie_word_embeddings=False,
        max_context=4096,
    ),
}


def published_config(name: str) -> PlusConfig:
    """The sizes and ids of a published model."""
    tokenizer = TokenizerConfig()
    names = ("pad", "begin", "end")
    controls = {control: TEXT_END + i for i, control in enumerate(names)}
    rest = [control for control in CONTROLS if control not in names]
    controls |= {control: FIRST_IMAGE_TOKEN + i for i, control in enumerate(rest)}
    first = FIRST_IMAGE_TOKEN + len(rest)
    tags = [(side, size) for side in ("height", "width") for size in TAG_SIZES]
    level0 = first + len(tags)
    level1 = level0 + tokenizer.num_codes[0]
    return PlusConfig(
        name=name,
        language_model=LANGUAGE_MODELS[name],
        vocabulary=PlusVocabulary(
            controls,
            {tag: first + i for i, tag in enumerate(tags)},
            (level0, level1),
            (level1, level1 + tokenizer.num_codes[1]),
        ),
        tokenizer=tokenizer,
        diffusion=DiffusionConfig(),
        rope_type="bfloat16",
    )


def random_checkpoint(config: PlusConfig) -> Checkpoint:
    """A checkpoint of these sizes with random weights of type float16; none of them is in memory.

    Its graphs are those of a real checkpoint, which is compared; these are not, as it takes memory and minutes.
    """
    with torch.device("meta"):
        model = IllumePlus(config)
    fill_with_random(model, torch.float16)
    language = model.mllm.language_model
    language.cos, language.sin = rope_tables(config.language_model)
    files = {
        "tokenizer.json": byte_tokenizer().to_str().encode(),
        "generation_config.json": (json.dumps(generation_from_json({}), indent=2) + "\n").encode(),
    }
    made = checkpoint_from_model(model.eval(), config.name, files, "float16")
    return dataclasses.replace(made, compared=False)


def byte_tokenizer() -> Tokenizer:
    """One token per byte; the words of the published vocabulary are no part of this package."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


PUBLISHED = {name: partial(lambda name: random_checkpoint(published_config(name)), name) for name in LANGUAGE_MODELS}
