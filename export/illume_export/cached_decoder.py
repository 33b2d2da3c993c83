"""Decoder with a key-value cache that is written in place.

| | name | shape | |
|---|---|---|---|
| in | `inputs_embeds` | [B, T, D] float32 | new tokens |
| in | `positions` | [B, T] int64 | consecutive within a row |
| in | `key_cache_i`, `value_cache_i` | [B, K, S, E] float32 | slot j holds the token at position j; finite everywhere |
| out | `hidden` | [B, T, D] float32 | after the final norm |
| out | `key_cache_i_out`, `value_cache_i_out` | [B, K, S, E] | bound to the inputs' memory: no copy |

The mask follows from the positions alone: a token at position p sees the slots 0..p. It is added to the scores; S is
any size up to max_context, chosen by the caller, and the cost of attention is proportional to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from illume_export.models.language_model import DecoderLayer, LanguageModel
from illume_export.models.layers import RmsNorm

OPSET = 24  # the first one with TensorScatter
MASKED = -1e4  # exp(-1e4) is exactly 0 in float32, and the number fits float16


def standard(op_type: str, inputs: tuple[Tensor, ...], like: Tensor, **attributes: Any) -> Tensor:
    """The node of a standard ONNX operator in the traced graph; its output has the shape and type of `like`."""
    output: Tensor = torch.onnx.ops.symbolic(
        op_type, inputs, attributes, dtype=like.dtype, shape=like.shape, version=OPSET
    )
    return output


def rms_norm(norm: RmsNorm, x: Tensor) -> Tensor:
    """RMSNormalization of x [B, T, D]."""
    return standard("RMSNormalization", (x, norm.weight), x, epsilon=norm.eps, axis=-1)


def cached_attention(
    layer: DecoderLayer,
    x: Tensor,
    rope: tuple[Tensor, Tensor],
    mask: Tensor,
    start: Tensor,
    keys: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of x [B, T, D] over the cache, and the cache with x's keys and values from slot `start` [B] on."""
    attention = layer.self_attn
    q, k, v = attention.project(x)
    q = torch.onnx.ops.rotary_embedding(q, *rope)
    k = torch.onnx.ops.rotary_embedding(k, *rope)
    keys = standard("TensorScatter", (keys, k, start), keys, axis=-2)
    values = standard("TensorScatter", (values, v, start), values, axis=-2)
    y = standard("Attention", (q, keys, values, mask), q, scale=attention.head_dim**-0.5)
    return attention.merge(y), keys, values


class CachedDecoder(nn.Module):
    """All layers of the language model, one step of T tokens. The cache is flat: key 0, value 0, key 1, ..."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.layers = model.model.layers
        self.norm: RmsNorm = model.model.norm
        self.register_buffer("cos", model.cos)
        self.register_buffer("sin", model.sin)
        self.cos: Tensor
        self.sin: Tensor

    def forward(self, inputs_embeds: Tensor, positions: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        """Hidden states, then the cache."""
        slots = torch.arange(cache[0].shape[2])
        visible = slots <= positions[:, None, :, None]  # [B, 1, T, S]
        mask = torch.where(visible, 0.0, MASKED)
        rope = (self.cos[positions], self.sin[positions])
        start = positions[:, 0]
        x = inputs_embeds
        written: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            h = rms_norm(layer.input_layernorm, x)
            y, keys, values = cached_attention(layer, h, rope, mask, start, *cache[2 * i : 2 * i + 2])
            x = x + y
            x = x + layer.mlp(rms_norm(layer.post_attention_layernorm, x))
            written += [keys, values]
        return rms_norm(self.norm, x), *written
