"""Arrays that the host looks up, instead of a graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from illume_export.families.illume_plus.config import PlusConfig
from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.rewrites import folded_codebook
from illume_export.families.illume_plus.specification import MAX_SIDE

ROPE_BASE = 10000.0
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float32}


def tables_from_model(model: IllumePlus) -> dict[str, Tensor]:
    """Embeddings of tokens and codes, and the rotary tables of the vision transformer and of the tokenizer's blocks."""
    embedding = model.mllm.language_model.model.embed_tokens.weight.detach()
    return {
        "token_embedding": embedding,
        "code_embedding": folded_codebook(model.tokenizer.semantic_quantizer),
        "code_embedding_level1": folded_codebook(model.tokenizer.pixel_quantizer),
        **{name: torch.from_numpy(table) for name, table in rope_tables_of(model.config).items()},
    }


def rope_tables_of(config: PlusConfig) -> dict[str, np.ndarray]:
    """`patch_rope` of the vision transformer, by place of a patch; `code_rope` of the blocks behind it, by feature."""
    c = config.tokenizer
    places = MAX_SIDE // c.vit.patch_size
    return {
        "patch_rope": rope_table(places, c.vit.head_dim, config.rope_type),
        "code_rope": rope_table(places // c.vit.merge_size, c.semantic.width // c.semantic.num_heads, "float32"),
    }


def rope_table(places: int, head_dim: int, kind: str) -> np.ndarray:
    """Cosines and sines [2, places, head_dim / 4] float32 of one axis.

    A model that was trained in bfloat16 had rates, angles, cosines and sines each rounded to it, which moves angles by
    up to a quarter: it must be given the same ones.
    """
    dtype = TYPES[kind]
    exponents = torch.arange(0, head_dim // 2, 2, dtype=torch.float32) / (head_dim // 2)
    rates = (1.0 / ROPE_BASE**exponents).to(dtype)
    angles = torch.outer(torch.arange(places, dtype=dtype), rates)
    table: np.ndarray = torch.stack((angles.cos(), angles.sin())).float().numpy()
    return table
