"""Teaches looking up: the words of a question go to where its answer begins, and find there the cells that show it.

The two steps are worth nothing without each other, so that training for the next token alone finds neither
(docs/log.md). Each has a loss of its own here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models.config import Controls
from illume_export.models.language_model import DecoderLayer, rotate
from illume_training.dialogue import AGAINST, NAMED, NEXT, SHOWN, TEXT, Look, Writer
from illume_training.world.language import plural
from illume_training.world.palette import COLORS, SHAPES

CARRIED_BY: Final = 1 / 3  # share of the layers behind which the words asked for are to have arrived
LOOKED_UP_AT: Final = 1 / 2  # share of the layers before that of which one head looks at what they name
_WEIGHTS: Final = {SHOWN: 4.0, AGAINST: 4.0, NAMED: 4.0, NEXT: 0.4}  # the last is asked at every cell of a drawing
_SHARPNESS: Final = 10.0  # of a cosine, as a logit


class AskedWords(nn.Module):
    """Cross entropy of naming, where an answer begins, the words that its question holds.

    `stands_for`: of each token that names something the token of the word it stands for (a plural's: its singular).
    """

    def __init__(self, stands_for: Mapping[int, int], vocabulary: int, controls: Controls) -> None:
        super().__init__()
        words = sorted(set(stands_for.values()))
        rank = torch.full((vocabulary,), len(words))  # the last: names nothing
        for token, word in stands_for.items():
            rank[token] = words.index(word)
        self.controls = controls
        self.register_buffer("words", torch.tensor(words), persistent=False)
        self.register_buffer("_rank", rank, persistent=False)
        self.words: Tensor
        self._rank: Tensor

    def questions(self, ids: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """Where answers in words begin [B, T] bool, and which words the question before each holds [B, T, W] bool."""
        starts = torch.zeros_like(ids, dtype=torch.bool)
        starts[:, :-1] = (kinds[:, 1:] == TEXT) & (ids[:, :-1] == self.controls.assistant)
        starts[:, :-1] &= ids[:, 1:] != self.controls.start_of_image
        held = F.one_hot(self._rank[ids], len(self.words) + 1)[..., :-1].cumsum(1)  # up to each token
        opening = ids == self.controls.user
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        opened = torch.where(opening, places, 0).cummax(1).values
        before = held.gather(1, opened[..., None].expand_as(held))
        return starts, held > before

    def forward(self, states: Tensor, ids: Tensor, kinds: Tensor, embeddings: Tensor) -> Tensor:
        """Summed over questions that hold such words; states [B, T, D] of `ids`, embeddings [V, D] of all tokens."""
        starts, held = self.questions(ids, kinds)
        asked = starts & held.any(-1)
        words = F.normalize(embeddings[self.words].detach().float(), dim=-1)
        logits = _SHARPNESS * F.normalize(states[asked].float(), dim=-1) @ words.T
        shares = held[asked].float()
        return F.cross_entropy(logits, shares / shares.sum(-1, keepdim=True), reduction="sum")


def asked_words(writer: Writer) -> AskedWords:
    """Of shapes, of one or of several, and of colours."""
    stands_for = {writer.token(word): writer.token(word) for word in (*SHAPES, *COLORS)}
    stands_for |= {writer.token(plural(shape)): writer.token(shape) for shape in SHAPES}
    return AskedWords(stands_for, writer.config.language_model.vocab_size, writer.config.controls)


def looking_loss(
    layer: nn.Module, states: Tensor, looks: Sequence[tuple[int, Look]], cos: Tensor, sin: Tensor
) -> Tensor:
    """Cross entropy, weighted and summed, of one head's attention a kind of look with the places to be looked at.

    `states` [B, T, D] go into the layer; `looks` with their rows; `cos` and `sin` the tables of the rotary embedding.
    """
    assert isinstance(layer, DecoderLayer)
    num, attention, device = states.shape[1], layer.self_attn, states.device
    cos, sin = (table[:num].expand(len(states), num, -1) for table in (cos, sin))
    q, k, _ = attention.project(layer.input_layernorm(states))
    queries, keys = rotate(q, cos, sin), rotate(k, cos, sin)  # [B, heads, T, E]
    rows = torch.tensor([row for row, _ in looks], device=device)
    places = torch.tensor([look.place for _, look in looks], device=device)
    heads = attention.num_heads - len(_WEIGHTS) + torch.tensor([look.kind for _, look in looks], device=device)
    weights = torch.tensor([_WEIGHTS[look.kind] for _, look in looks], device=device)
    shares = torch.zeros(len(looks), num, device=device)
    for share, (_, look) in zip(shares, looks, strict=True):
        share[list(look.places)] = 1.0 / len(look.places)
    key_heads = heads * attention.num_kv_heads // attention.num_heads
    logits = (keys[rows, key_heads].float() @ queries[rows, heads, places].float()[..., None])[..., 0]
    later = torch.arange(num, device=device) > places[:, None]
    logits = (logits / attention.head_dim**0.5).masked_fill(later, -1e4)
    return weights @ F.cross_entropy(logits, shares, reduction="none")
