"""Where the language model starts: what the encoder and the tokenizer know already is written into its weights.

ILLUME starts from a language model that can speak and look up; illume-tiny starts from nothing, and from noise it
learns for hours to answer without looking. So its first weights say what is known: codes that mean alike are alike and
resemble the words of what they depict, the adapter writes a cell as its code and its words, one head looks back at the
cell that the next code would copy, others at what resembles themselves. All of it is learnt further; docs/log.md has
what each is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from illume_export.models import Illume
from illume_export.models.language_model import Attention
from illume_training.code_contents import CodeContents
from illume_training.vision import CLASSES, CellProbe
from illume_training.world.palette import COLORS, INNER, SHAPES, SIZES

SEEN = (*SHAPES, *COLORS, *SIZES)  # in the order in which the probe has them
REGIONS = ("top", "middle", "bottom", "left", "center", "right")  # of rows, of columns
WORDS = (*SEEN, *REGIONS)
_COPY_HEADS, _COPY_RATES, _COPY_BIAS = 2, 6, 4.5  # heads; fast rotations used; size of a bias
_MATCH_GAIN = 1.5


@torch.no_grad()
def start_language_model(
    model: Illume, probe: CellProbe, features: Tensor, word_ids: Sequence[int], contents: CodeContents
) -> None:
    """Changes embeddings, adapter and attention in place.

    `features` [B, 64, C] are the encoder's of some pictures; `word_ids` the tokens of WORDS; `contents` what the
    codes show.
    """
    if len(word_ids) != len(WORDS):
        raise ValueError(f"word_ids: {len(word_ids)} tokens, expected one for each of {len(WORDS)} words")
    width = model.config.language_model.hidden_size
    turn, _ = torch.linalg.qr(torch.randn(width, model.image_tokenizer.codebook.shape[1]).to(features))
    _start_codes(model, turn)
    name_codes(model, word_ids[: len(SEEN)], contents)
    _start_adapter(model, probe, features, word_ids[: len(SEEN)], turn)
    start_positions(model, word_ids[len(SEEN) :])
    layers = [module for module in model.language_model.modules() if isinstance(module, Attention)]
    for attention in layers:
        _start_matching(attention)
    _start_copying(model, layers[0])


def _start_codes(model: Illume, turn: Tensor) -> None:
    """Embeddings of codes: their vectors, turned into the model's width; the noise left keeps near ones apart."""
    start, end = model.config.level0_segment
    vectors = model.image_tokenizer.code_vectors()
    table = model.language_model.model.embed_tokens.weight
    table[start:end] = 0.5 * table[start:end] + (vectors - vectors.mean(0)) @ turn.T


@torch.no_grad()
def name_codes(model: Illume, word_ids: Sequence[int], contents: CodeContents) -> None:
    """Embeddings of codes that depict an object: its words are added, so that a word read brings its codes forth."""
    start, end = model.config.level0_segment
    table = model.language_model.model.embed_tokens.weight
    table[start:end] += 0.5 * contents.words(table[list(word_ids)])


def _start_adapter(model: Illume, probe: CellProbe, features: Tensor, word_ids: Sequence[int], turn: Tensor) -> None:
    """The adapter: a cell is written as the vector of its code and the words that the probe reads in it.

    A pair of hidden units, gelu(x) - gelu(-x) = x, passes a coordinate of the code's vector; one unit is for each word.
    """
    up, down = model.adapter.mlp.up, model.adapter.mlp.down
    project, table = model.image_tokenizer.project, model.language_model.model.embed_tokens.weight
    size, first = turn.shape[1], 2 * turn.shape[1]
    norm = project(features).norm(dim=-1).mean()
    down.weight *= 0.3
    for units, sign in ((slice(0, size), 1.0), (slice(size, first), -1.0)):
        up.weight[units], up.bias[units] = sign * project.weight, sign * project.bias
        down.weight[:, units] = sign * turn / norm
    down.bias.copy_(-(turn @ model.image_tokenizer.code_vectors().mean(0)))
    model.adapter.norm.weight.fill_(table.norm(dim=-1).mean() / table.shape[1] ** 0.5)  # as large as a word
    if up.out_features < first + len(SEEN):
        raise ValueError(
            f"adapter: {up.out_features} hidden units, expected at least {first + len(SEEN)} to start with"
        )
    weight, bias = probe.linear.weight, probe.linear.bias
    begin = dict(zip(CLASSES, accumulate((0, *CLASSES.values())), strict=False))
    logits = probe.linear(features).flatten(0, 1)
    parts = {name: logits[:, begin[name] : begin[name] + CLASSES[name]] for name in CLASSES}
    full = parts["shape"].argmax(-1) > 0  # cells with the centre of an object
    unit = first
    for name in ("shape", "color", "size"):
        rows = slice(begin[name], begin[name] + CLASSES[name])
        part = parts[name] - parts[name].mean(-1, keepdim=True)
        for k in range(CLASSES[name])[1 if name == "shape" else 0 :]:  # class 0 of the shapes is 'none'
            scores = part[full & (part.argmax(-1) == k), k]
            if len(scores):  # else none of the pictures has it, and its unit stays noise
                up.weight[unit] = (weight[rows][k] - weight[rows].mean(0)) * (3.0 / scores.mean())
                up.bias[unit] = (bias[rows][k] - bias[rows].mean()) * (3.0 / scores.mean())
                down.weight[:, unit] = table[word_ids[unit - first]] / 3.0
            unit += 1


@torch.no_grad()
def start_positions(model: Illume, region_ids: Sequence[int]) -> None:
    """Positions of the adapter: a vector of the row, one of the column, and the words of the region."""
    position, size = model.adapter.position, model.config.grid_size
    words = model.language_model.model.embed_tokens.weight[list(region_ids)]
    thirds = (torch.arange(size) - INNER[0]).clamp(0, len(INNER) - 1) * 3 // len(INNER)
    rows = 0.02 * torch.randn(size, position.shape[-1]).to(position) + 0.5 * words[:3][thirds]
    columns = 0.02 * torch.randn(size, position.shape[-1]).to(position) + 0.5 * words[3:][thirds]
    position.copy_((rows[:, None] + columns[None]).flatten(0, 1)[None])


def _start_copying(model: Illume, attention: Attention) -> None:
    """Biases of the first layer: some heads look at the cell of the input picture in the place of the next code."""
    config = model.config.language_model
    half = config.head_dim // 2
    back = model.config.grid_size * (model.config.grid_size + 1) + 2  # from a code to its cell, less one
    rates = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)[:_COPY_RATES]
    key, query = _pairs(attention.k_proj, half), _pairs(attention.q_proj, half)
    key[0, 0, :_COPY_RATES] = _COPY_BIAS
    for head in range(_COPY_HEADS):
        query[head, 0, :_COPY_RATES] = _COPY_BIAS * torch.cos(back * rates).to(query)
        query[head, 1, :_COPY_RATES] = -_COPY_BIAS * torch.sin(back * rates).to(query)


def _start_matching(attention: Attention) -> None:
    """The heads of the last group of keys ask as the keys answer: they look at what resembles themselves."""
    width = attention.head_dim
    keys = attention.k_proj.weight[-width:]
    for head in range(attention.num_heads - attention.num_heads // attention.num_kv_heads, attention.num_heads, 2):
        attention.q_proj.weight[head * width : (head + 1) * width] = _MATCH_GAIN * keys


def _pairs(projection: nn.Linear, half: int) -> Tensor:
    """A view [heads, 2, half] of the biases: first and second halves are rotated together."""
    return projection.bias.view(-1, 2, half)
