"""The decoder's layers in PyTorch with a cache of fixed size: what both PyTorch's loop and ours are built around."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from illume_export.models.language_model import DecoderLayer, LanguageModel, rotate

LayerStep = Callable[[DecoderLayer, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
MOST_COMPILED = 2  # new tokens: more stand only at a picture's beginning and between its levels


def attended(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Results [R, N, T, E] of queries [R, N, T, E] over keys and values [R, K, S, E]; seen [T, S].

    The queries that share a key head are rows of one product: kernels for long prompts are slow with one new token.
    """
    rows, heads, new, width = q.shape
    num_kv = keys.shape[1]
    per_key = heads // num_kv
    together = q.reshape(rows, num_kv, per_key * new, width)
    scores = (together @ keys.transpose(-1, -2)).float() * width**-0.5
    shares = scores.masked_fill(~seen.repeat(per_key, 1), float("-inf")).softmax(-1).to(values.dtype)
    result: Tensor = (shares @ values).view(rows, heads, new, width)
    return result


def layer_step(
    layer: DecoderLayer, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor, places: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """One layer on x [R, T, D] at places [T]; its part of the cache, keys and values [R, K, S, E], is written."""
    q, k, v = layer.self_attn.project(layer.input_layernorm(x))
    keys.index_copy_(2, places, rotate(k, cos, sin))
    values.index_copy_(2, places, v)
    x = x + layer.self_attn.merge(attended(rotate(q, cos, sin), keys, values, seen))
    y: Tensor = x + layer.mlp(layer.post_attention_layernorm(x))
    return y


class StaticDecoder:
    """R rows of at most `num_slots` tokens; `compiled` is what steps of few tokens go through."""

    def __init__(self, model: LanguageModel, num_rows: int, num_slots: int, compiled: LayerStep) -> None:
        self.model, self.num_slots, self._compiled = model, -(-num_slots // 8) * 8, compiled
        c, like = model.config, model.model.norm.weight
        shape = (num_rows, c.num_kv_heads, self.num_slots, c.head_dim)
        self._rows = num_rows
        self._caches = [
            tuple(torch.zeros(shape, device=like.device, dtype=like.dtype) for _ in range(2))
            for _ in range(c.num_layers)
        ]
        self._slots = torch.arange(self.num_slots, device=like.device)

    def states(self, embeds: Tensor, places: Tensor) -> Tensor:
        """States [R, D] of the last of embeds [R, T, D] at places [T], after the final norm."""
        model = self.model
        cos, sin = (table[places].expand(self._rows, -1, -1) for table in (model.cos, model.sin))
        seen = self._slots[None] <= places[:, None]
        step = self._compiled if embeds.shape[1] <= MOST_COMPILED else layer_step
        x = embeds
        for layer, (keys, values) in zip(model.model.layers, self._caches, strict=True):
            assert isinstance(layer, DecoderLayer)
            x = step(layer, x, cos, sin, seen, places, keys, values)
        y: Tensor = model.model.norm(x[:, -1])
        return y

    def bytes_of_layers(self) -> int:
        """Of all weights that a step reads before the head."""
        return sum(p.numel() * p.element_size() for p in self.model.model.layers.parameters())

    def bytes_of_position(self) -> int:
        """Of the keys and values of one position in all rows and layers."""
        return sum(array[:, :, 0].numel() * array.element_size() for pair in self._caches for array in pair)
