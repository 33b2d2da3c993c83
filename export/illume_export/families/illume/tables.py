"""Arrays that the host looks up, instead of a graph."""

from __future__ import annotations

import torch
from torch import Tensor

from illume_export.models import Illume


def tables_from_model(model: Illume) -> dict[str, Tensor]:
    """`token_embedding` [V, D] and `code_embedding` [codes, code_dim] float32, `code_color` [codes, 3] uint8."""
    tokenizer = model.image_tokenizer
    colors = tokenizer.code_color.round().clamp(0, 255)
    return {
        "token_embedding": model.language_model.model.embed_tokens.weight.detach(),
        "code_embedding": tokenizer.code_vectors().detach(),
        "code_color": colors.to(torch.uint8),
    }
