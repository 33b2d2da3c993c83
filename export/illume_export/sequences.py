"""Sequences of a language model in plain PyTorch, each pass with a cache that concatenation makes longer.

Visual tokens are chosen as the public reference chooses them: a step for every token, also one that the grammar forces;
two passes for guidance; logits of the whole vocabulary, of which a mask leaves the legal ones.

Shapes: B sequences, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from illume_export.models.language_model import DecoderLayer, LanguageModel, rotate

Choose = Callable[[Tensor], Tensor]
"""Tokens [B] from scores [B, V], which are -inf where a token is not legal."""


def likeliest(scores: Tensor) -> Tensor:
    """The token with the largest score."""
    return scores.argmax(-1)


class Sequences:
    """B sequences of one length and their keys and values, a pair [B, K, T, E] per layer."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._cache: list[tuple[Tensor, Tensor]] = []
        self._length = 0

    def append(self, embeds: Tensor) -> Tensor:
        """Logarithms of the probabilities [B, V] of the token after embeds [B, T, D]; after the first call T is 1."""
        batch, num_new, _ = embeds.shape
        new = slice(self._length, self._length + num_new)
        cos, sin = (table[new].expand(batch, -1, -1) for table in (self._model.cos, self._model.sin))
        x = embeds
        for i, layer in enumerate(self._model.model.layers):
            assert isinstance(layer, DecoderLayer)
            q, k, v = layer.self_attn.project(layer.input_layernorm(x))
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            if self._length:
                keys, values = self._cache[i]
                k, v = torch.cat((keys, k), dim=2), torch.cat((values, v), dim=2)
                self._cache[i] = k, v
            else:
                self._cache.append((k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=not self._length, enable_gqa=True)
            x = x + layer.self_attn.merge(y)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        self._length = new.stop
        last = self._model.model.norm(x[:, -1])
        return self._model.logits(last, 0, self._model.config.vocab_size).log_softmax(-1)


def guided_codes(
    model: LanguageModel,
    conditional: Tensor,
    unconditional: Tensor,
    grammar: Iterable[tuple[int, int]],
    *,
    guidance: float,
    choose: Choose,
) -> Tensor:
    """Codes [B, n] after prompts [B, T, D], each from 0 within its segment.

    The grammar gives the legal ids [start, end) of every token; a token that has no choice is no code.
    """
    sides = (Sequences(model), Sequences(model))
    pending = (conditional, unconditional)
    codes: list[Tensor] = []
    for start, end in grammar:
        cond, uncond = (side.append(embeds) for side, embeds in zip(sides, pending, strict=True))
        scores = uncond + guidance * (cond - uncond)
        legal = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
        legal[start:end] = True
        tokens = choose(scores.masked_fill(~legal, float("-inf")))
        if end - start > 1:
            codes.append(tokens - start)
        pending = (model.embed(tokens[:, None]),) * 2
    return torch.stack(codes, 1)


class Watched:
    """Chooses the likeliest token of one sequence, and keeps by how much it was ahead of the second."""

    def __init__(self) -> None:
        self._margins: list[float] = []

    def __call__(self, scores: Tensor) -> Tensor:
        """The token [1] with the largest of the scores [1, V]."""
        top = scores[0].topk(2).values
        self._margins.append(float(top[0] - top[1]))
        return likeliest(scores)

    def margins(self) -> tuple[float, ...]:
        """One margin per choice; a token that was the only legal one is no choice."""
        return tuple(filter(math.isfinite, self._margins))
