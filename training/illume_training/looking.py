"""Teaches looking up: the words of a question go to where its answer begins, and find there the cells that show it.

The two steps are worth nothing without each other, so that training for the next token alone finds neither
(docs/log.md). Each has a loss of its own here. So has it to know in which row and column the next code goes, which
the words of an instruction speak of and no token says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models.config import Controls
from illume_export.models.language_model import DecoderLayer, LanguageModel, rotate
from illume_training.dialogue import (
    AGAINST,
    IMAGE,
    LAYOUT,
    NAMED,
    NEXT,
    RELATED,
    SHOWN,
    TEXT,
    WHERE,
    Look,
    Writer,
)
from illume_training.world.palette import COLORS, SHAPES
from illume_training.world.wording import plural

CARRIED_BY: Final = 1 / 3  # share of the layers behind which the words asked for are to have arrived
PLACED_AT: Final = (1 / 3, 2 / 3)  # shares of the layers behind which the place of the next code is to be known
# Of each kind of look the layer, as the share of the layers before it, and the head. What is related is looked at where
# the words that relate it have arrived.
_HEADS: Final = {
    SHOWN: (1 / 2, 4),
    AGAINST: (1 / 2, 5),
    NAMED: (1 / 2, 6),
    NEXT: (1 / 2, 7),
    WHERE: (1 / 2, 3),
    RELATED: (2 / 3, 2),
}
# Those of 0.4 are asked at every cell of a picture.
_WEIGHTS: Final = {SHOWN: 4.0, AGAINST: 4.0, NAMED: 4.0, NEXT: 0.4, WHERE: 0.4, RELATED: 0.4}
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


def place_loss(states: Tensor, kinds: Tensor, positions: Tensor) -> Tensor:
    """Cross entropy, summed, of naming before each code that is learnt the row and the column where it goes.

    `states` [B, T, D] of tokens learnt as `kinds` [B, T]; `positions` [cells, D] are what the adapter adds to the cells
    of a picture that is looked at: a row is told by its mean there, and so is a column.
    """
    is_code = (kinds == IMAGE) | (kinds == LAYOUT)
    num_cells, width = positions.shape
    side = math.isqrt(num_cells)
    cells = (is_code.cumsum(1) - 1)[is_code] % num_cells
    before = F.normalize(states[:, :-1][is_code[:, 1:]].float(), dim=-1)
    grid = positions.detach().float().view(side, side, width)
    loss = torch.zeros((), device=states.device)
    for along, numbers in ((1, cells // side), (0, cells % side)):
        means = grid.mean(along)
        named = F.normalize(means - means.mean(0), dim=-1)
        loss = loss + F.cross_entropy(_SHARPNESS * before @ named.T, numbers, reduction="sum")
    return loss


def looking_loss(model: LanguageModel, states: Sequence[Tensor], looks: Sequence[tuple[int, Look]]) -> Tensor:
    """Cross entropy, weighted and summed, of one head's attention a kind of look with the places to be looked at.

    `states` [B, T, D] go into the layers of the model, one after the other; `looks` with their rows.
    """
    device, num_rows, num = states[0].device, *states[0].shape[:2]
    loss = torch.zeros((), device=device)
    cos, sin = (table[:num].expand(num_rows, num, -1) for table in (model.cos, model.sin))
    for share in sorted({share for share, _ in _HEADS.values()}):
        index = int(share * len(model.model.layers))
        layer = model.model.layers[index]
        assert isinstance(layer, DecoderLayer)
        attention = layer.self_attn
        q, k, _ = attention.project(layer.input_layernorm(states[index]))
        queries, keys = rotate(q, cos, sin), rotate(k, cos, sin)  # [B, heads, T, E]
        for kind, (_, number) in ((kind, at) for kind, at in _HEADS.items() if at[0] == share):
            head = number % attention.num_heads  # a small model has fewer, and they serve several kinds
            asked = [(row, look) for row, look in looks if look.kind == kind]
            if not asked:
                continue
            rows = torch.tensor([row for row, _ in asked], device=device)
            places = torch.tensor([look.place for _, look in asked], device=device)
            key_head = head * attention.num_kv_heads // attention.num_heads
            logits = (queries[:, head] @ keys[:, key_head].transpose(1, 2))[rows, places].float()
            later = torch.arange(num, device=device) > places[:, None]
            logits = (logits / attention.head_dim**0.5).masked_fill(later, -1e4)
            shares = _shares([look.places for _, look in asked], num).to(device)
            loss = loss + _WEIGHTS[kind] * F.cross_entropy(logits, shares, reduction="sum")
    return loss


def _shares(places: Sequence[tuple[int, ...]], num: int) -> Tensor:
    """Of each look its attention [looks, num], alike at all of its places."""
    counts = torch.tensor([len(them) for them in places])
    shares = torch.zeros(len(places), num)
    at = torch.tensor([place for them in places for place in them])
    shares[torch.arange(len(places)).repeat_interleave(counts), at] = (1.0 / counts).repeat_interleave(counts)
    return shares
