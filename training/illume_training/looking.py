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
from illume_training.dialogue import TEXT

CARRIED_BY: Final = 2  # layers: the words asked for are to have arrived behind them
LOOKED_UP_IN: Final = 3  # the layer of which one head looks at what they name
_HEAD: Final = -4
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


def looking_loss(
    layer: nn.Module, states: Tensor, looks: Sequence[tuple[int, int, tuple[int, ...]]], cos: Tensor, sin: Tensor
) -> Tensor:
    """Cross entropy, summed, of one head's attention with the places that show an answer, alike for all of them.

    `states` [B, T, D] go into the layer; `looks` are row, where the answer begins, and those places; `cos` and `sin`
    the tables of the rotary embedding.
    """
    assert isinstance(layer, DecoderLayer)
    num, attention = states.shape[1], layer.self_attn
    cos, sin = (table[:num].expand(len(states), num, -1) for table in (cos, sin))
    q, k, _ = attention.project(layer.input_layernorm(states))
    head = _HEAD % attention.num_heads
    queries = rotate(q, cos, sin)[:, head]  # [B, T, E]
    keys = rotate(k, cos, sin)[:, head * attention.num_kv_heads // attention.num_heads]
    rows = torch.tensor([row for row, _, _ in looks], device=states.device)
    begins = torch.tensor([place for _, place, _ in looks], device=states.device)
    shares = torch.zeros(len(looks), num, device=states.device)
    for share, (_, _, places) in zip(shares, looks, strict=True):
        share[list(places)] = 1.0 / len(places)
    logits = (keys[rows].float() @ queries[rows, begins].float()[..., None])[..., 0] / attention.head_dim**0.5
    later = torch.arange(num, device=states.device) > begins[:, None]
    return F.cross_entropy(logits.masked_fill(later, -1e4), shares, reduction="sum")
