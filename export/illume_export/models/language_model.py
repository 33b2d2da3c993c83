"""Decoder-only language model: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Parameter names are those of Hugging Face's Llama and Qwen2 (`attention_bias`), so that their weights load unchanged.
Shapes: B rows, T new tokens, S cache slots, D width, N query heads, K key-value heads, E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models.config import LanguageModelConfig
from illume_export.models.layers import RmsNorm


def rope_tables(config: LanguageModelConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables, each [max_context, E / 2] float32, computed in float64 (Su et al., 2021)."""
    half = config.head_dim // 2
    rates = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(config.max_context, dtype=torch.float64)[:, None] * rates
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [B, heads, T, E] by cos, sin [B, T, E / 2]; halves are paired, not neighbours."""
    a, b = x.chunk(2, dim=-1)
    c, s = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    return torch.cat((a * c - b * s, b * c + a * s), dim=-1)


class Attention(nn.Module):
    """Projections of causal grouped-query attention."""

    def __init__(self, c: LanguageModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = c.num_heads, c.num_kv_heads, c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, c.num_heads * c.head_dim, bias=c.attention_bias)
        self.k_proj = nn.Linear(c.hidden_size, c.num_kv_heads * c.head_dim, bias=c.attention_bias)
        self.v_proj = nn.Linear(c.hidden_size, c.num_kv_heads * c.head_dim, bias=c.attention_bias)
        self.o_proj = nn.Linear(c.num_heads * c.head_dim, c.hidden_size, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, N, T, E], keys and values [B, K, T, E] of x [B, T, D], before rotation."""
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(B, T, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(B, T, self.num_kv_heads, self.head_dim).transpose(1, 2)
        return q, k, v

    def merge(self, y: Tensor) -> Tensor:
        """Output [B, T, D] of the heads' results [B, N, T, E]."""
        B, _, T, _ = y.shape
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(B, T, self.num_heads * self.head_dim))
        return out

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.project(x)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, enable_gqa=True)
        return self.merge(y)


class SwiGlu(nn.Module):
    """Gated feed-forward layer (Shazeer, 2020): [B, T, D] -> [B, T, D]."""

    def __init__(self, c: LanguageModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.mlp_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.mlp_size, bias=False)
        self.down_proj = nn.Linear(c.mlp_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward layer."""

    def __init__(self, c: LanguageModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = SwiGlu(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        y: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return y


class Transformer(nn.Module):
    """Embedding table, layers and final norm: what Hugging Face calls `model`."""

    def __init__(self, c: LanguageModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(c) for _ in range(c.num_layers))
        self.norm = RmsNorm(c.hidden_size, c.rms_norm_eps)


class LanguageModel(nn.Module):
    """Embeddings in, hidden states out; `logits` applies the head to a slice of the vocabulary."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Transformer(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        cos, sin = rope_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    @property
    def head_weight(self) -> Tensor:
        """Head [V, D]: the embedding table itself where the two are tied."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [B, T, D] of ids [B, T]."""
        y: Tensor = self.model.embed_tokens(ids)
        return y

    def forward(self, embeds: Tensor) -> Tensor:
        """Hidden states [B, T, D] after the final norm, of embeds [B, T, D] at positions 0..T-1."""
        return self.states(embeds)[-1]

    def states(self, embeds: Tensor) -> list[Tensor]:
        """What goes into each layer, and what leaves the final norm: layers + 1 times [B, T, D]."""
        B, T, _ = embeds.shape
        cos, sin = (table[:T].expand(B, T, -1) for table in (self.cos, self.sin))
        states = [embeds]
        for layer in self.model.layers:
            states.append(layer(states[-1], cos, sin))
        states[-1] = self.model.norm(states[-1])
        return states

    def logits(self, hidden: Tensor, start: int, end: int) -> Tensor:
        """Logits [..., end - start] of one vocabulary segment."""
        return F.linear(hidden, self.head_weight[start:end])
