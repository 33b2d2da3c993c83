"""The language model against numpy, token by token and head by head, in the styles whose weights it must load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from illume_export.families.illume.stages import stages_from_model
from illume_export.models import IllumeConfig
from illume_export.onnx_from_stage import onnx_from_stage
from illume_export.onnx_weights import store_weights
from illume_export.parity import parity_of
from small_model import random_model, small_config

Weights = dict[str, np.ndarray]

STYLES = {
    "llama": small_config(),
    "llama tied": small_config(tie_word_embeddings=True),
    "qwen2": small_config(attention_bias=True, rope_theta=1e6, num_kv_heads=1, rms_norm_eps=1e-5),
    "no grouping": small_config(num_kv_heads=4),
}
STYLE = pytest.mark.parametrize("config", STYLES.values(), ids=STYLES)


def slow_states(config: IllumeConfig, w: Weights, embeds: np.ndarray) -> np.ndarray:
    """Hidden states [T, D] of embeds [T, D] in float64, written from the papers' formulas."""
    c = config.language_model
    half = c.head_dim // 2

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x * x) + c.rms_norm_eps) * weight

    def rotated(x: np.ndarray, position: int) -> np.ndarray:
        out = np.empty_like(x)
        for j in range(half):
            angle = position * c.rope_theta ** (-2.0 * j / c.head_dim)
            out[j] = x[j] * np.cos(angle) - x[j + half] * np.sin(angle)
            out[j + half] = x[j + half] * np.cos(angle) + x[j] * np.sin(angle)
        return out

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0.0)

    states = embeds.astype(np.float64)
    for i in range(c.num_layers):
        at = f"model.layers.{i}"
        rows = [norm(x, w[f"{at}.input_layernorm.weight"]) for x in states]
        q, k, v = (
            [linear(f"{at}.self_attn.{name}_proj", row).reshape(-1, c.head_dim) for row in rows] for name in "qkv"
        )
        merged = []
        for t in range(len(rows)):
            heads = []
            for head in range(c.num_heads):
                kv_head = head // (c.num_heads // c.num_kv_heads)
                query = rotated(q[t][head], t)
                scores = np.array([query @ rotated(k[s][kv_head], s) for s in range(t + 1)]) / np.sqrt(c.head_dim)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                heads.append(sum(weights[s] * v[s][kv_head] for s in range(t + 1)))
            merged.append(linear(f"{at}.self_attn.o_proj", np.concatenate(heads)))
        states = states + np.stack(merged)
        added = []
        for x in states:
            y = norm(x, w[f"{at}.post_attention_layernorm.weight"])
            gate = linear(f"{at}.mlp.gate_proj", y)
            added.append(linear(f"{at}.mlp.down_proj", gate / (1 + np.exp(-gate)) * linear(f"{at}.mlp.up_proj", y)))
        states = states + np.stack(added)
    return np.stack([norm(x, w["model.norm.weight"]) for x in states])


@STYLE
def test_module_equals_the_formulas(config: IllumeConfig) -> None:
    model = random_model(config).language_model
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    embeds = torch.randn(1, 7, config.language_model.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = model(embeds)[0].numpy()
    assert np.abs(got - slow_states(config, weights, embeds[0].numpy())).max() <= 1e-5  # float32 against float64


@STYLE
def test_names_are_those_of_hugging_face(config: IllumeConfig) -> None:
    names = set(random_model(config).language_model.state_dict())
    layer = "model.layers.0"
    assert {f"{layer}.self_attn.{p}_proj.bias" in names for p in "qkv"} == {config.language_model.attention_bias}
    assert f"{layer}.self_attn.o_proj.bias" not in names
    assert ("lm_head.weight" in names) is not config.language_model.tie_word_embeddings
    assert {"model.embed_tokens.weight", "model.norm.weight", f"{layer}.mlp.gate_proj.weight"} <= names


@pytest.mark.parametrize("style", ["llama tied", "qwen2"])
def test_exported_decoder_and_head_equal_pytorch(style: str, tmp_path: Path) -> None:
    stages = {stage.name: stage for stage in stages_from_model(random_model(STYLES[style]))}
    for name in ("decoder", "head_level0"):
        path = tmp_path / f"{name}.onnx"
        store_weights(*onnx_from_stage(stages[name]), path, "float32", beside=False)
        assert parity_of(stages[name], path, threads=1).max_abs_error <= 2e-4  # float32; guidance multiplies by 7.5
