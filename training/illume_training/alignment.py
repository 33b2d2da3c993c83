"""Training of the language model with its adapter: one next-token loss over text and codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models import Illume
from illume_training.dialogue import IMAGE, LAYOUT, TEXT, Packed
from illume_training.lessons import Lessons
from illume_training.looking import CARRIED_BY, PLACED_AT, AskedWords, looking_loss, place_loss

TEXT_WEIGHT = 10.0  # of a text token beside a code: an answer has few, and much of what a code could be is chance
WHAT_WEIGHT = 6.0  # of what an object is, beside where it is: where is mostly chance, what is in the words
WHERE_WEIGHT = 3.0  # of whether a cell has an object where a caption leaves the layout free, beside what else it shows
AHEAD_WEIGHT = 0.4  # of what the next object is, at each cell before it
ASKED_WEIGHT = 8.0  # of the words of a question, where its answer begins
PLACE_WEIGHT = 0.2  # of the row and the column of each code, before it


class LanguageTrainer(nn.Module):
    """Language model and adapter: the two that the three stages train.

    `depicting` [codes] bool: codes that stand for an object. `asked`: a further loss. `compiled`: the language model
    by torch.compile, for any length of lessons.
    """

    def __init__(
        self, model: Illume, depicting: Tensor | None = None, asked: AskedWords | None = None, *, compiled: bool = False
    ) -> None:
        super().__init__()
        if depicting is None:
            depicting = torch.zeros(model.image_tokenizer.codebook.shape[0], dtype=torch.bool)
        self.register_buffer("depicting", depicting, persistent=False)
        self.register_buffer("_rank", depicting.long().cumsum(0) - 1, persistent=False)  # among those that depict
        self.depicting: Tensor
        self._rank: Tensor
        self.config = model.config
        self.adapter = model.adapter
        self.language_model = model.language_model
        self.asked = asked
        num_layers = len(model.language_model.model.layers)
        self._carried_by = int(CARRIED_BY * num_layers)
        self._placed_at = [int(share * num_layers) for share in PLACED_AT]
        states = model.language_model.states
        self._states = torch.compile(states, dynamic=True) if compiled else states

    def loss(self, lessons: Lessons) -> tuple[Tensor, dict[str, float]]:
        """Negative log likelihood per lesson, tenths; each token only against its own vocabulary segment.

        That of a code has parts: whether here is an object, which one, or what else. They weigh unlike, and each is a
        proper score, so that the weights move no probability that the model should end with. One thing is learnt
        beside: at every cell of a free layout, which object comes next, were it here. That is the same question as
        which one is here, asked eighteen times as often.
        """
        device = self.language_model.head_weight.device
        cells = self.adapter(lessons.features.to(device)).flatten(0, 1)  # [pictures * 64, D]
        zero = torch.zeros((), device=device)
        text, image, weighted, num_text, num_image, num_rows = zero, zero, zero, zero, zero, 0
        for group in lessons.groups:
            states, ids, kinds = self._read(group, cells, device)
            if self.asked is not None:
                weighted = weighted + ASKED_WEIGHT * self.asked(
                    states[self._carried_by], ids, kinds, self.language_model.head_weight
                )
            for index in self._placed_at:
                placed = place_loss(states[index], kinds, self.adapter.position[0])
                weighted = weighted + PLACE_WEIGHT * placed
            if group.looks:
                weighted = weighted + looking_loss(self.language_model, states, group.looks)
            before, ids, kinds = states[-1][:, :-1], ids[:, 1:], kinds[:, 1:]
            num_rows += ids.shape[0]
            for kind, (start, end) in (
                (TEXT, self.config.text_segment),
                (IMAGE, self.config.level0_segment),
                (LAYOUT, self.config.level0_segment),
            ):
                learnt = kinds == kind
                if not learnt.any():
                    continue
                logits, targets = self.language_model.logits(before[learnt], start, end).float(), ids[learnt] - start
                nll = F.cross_entropy(logits, targets, reduction="sum")
                if kind == TEXT:
                    text, num_text = text + nll, num_text + learnt.sum()
                    continue
                image, num_image = image + nll, num_image + learnt.sum()
                weighted = weighted + (WHAT_WEIGHT - 1.0) * self._which_object(logits, targets)
                if kind == LAYOUT:
                    weighted = weighted + (WHERE_WEIGHT - 1.0) * self._whether_object(logits, targets)
                    weighted = weighted + AHEAD_WEIGHT * self._which_ahead(logits, targets)
        loss = (TEXT_WEIGHT * text + image + weighted) / num_rows / 10.0
        figures = {
            "text_nll": float(text.detach() / num_text.clamp_min(1)),
            "picture_nll": 64.0 * float(image.detach() / num_image.clamp_min(1)),
        }
        return loss, figures

    def _which_object(self, logits: Tensor, codes: Tensor) -> Tensor:
        """Negative log likelihood, summed, of the codes that depict an object among those that do."""
        objects = self.depicting[codes]
        if not objects.any():
            return torch.zeros((), device=logits.device)
        return F.cross_entropy(logits[objects][:, self.depicting], self._rank[codes[objects]], reduction="sum")

    def _whether_object(self, logits: Tensor, codes: Tensor) -> Tensor:
        """Negative log likelihood, summed, of that a cell has an object, or that it has none."""
        if not self.depicting.any():
            return torch.zeros((), device=logits.device)
        odds = logits[:, self.depicting].logsumexp(-1) - logits[:, ~self.depicting].logsumexp(-1)
        return F.binary_cross_entropy_with_logits(odds, self.depicting[codes].float(), reduction="sum")

    def _which_ahead(self, logits: Tensor, codes: Tensor) -> Tensor:
        """As `_which_object`, of the object that comes next after each cell without one; codes of whole pictures."""
        following = next_marked(self.depicting[codes].view(-1, self.config.num_patches))
        first = torch.arange(0, len(codes), self.config.num_patches, device=codes.device)[:, None]
        comes = ((following >= 0) & ~self.depicting[codes].view_as(following)).flatten()
        ahead = codes[(first + following.clamp_min(0)).flatten()[comes]]
        return self._which_object(logits[comes], ahead)

    def _read(self, group: Packed, cells: Tensor, device: torch.device) -> tuple[list[Tensor], Tensor, Tensor]:
        ids, where, kinds = (torch.from_numpy(a).to(device) for a in (group.ids, group.cells, group.losses))
        embeds = self.language_model.embed(ids)
        continuous = where >= 0
        embeds = torch.where(continuous[..., None], cells[where.clamp_min(0)].to(embeds.dtype), embeds)
        return self._states(embeds), ids, kinds


def next_marked(marks: Tensor) -> Tensor:
    """Index of the first mark at or after each place, -1 where none follows; marks and result [B, N]."""
    num = marks.shape[1]
    places = torch.where(marks, torch.arange(num, device=marks.device), num)
    nearest = places.flip(1).cummin(1).values.flip(1)
    return torch.where(nearest < num, nearest, -1)
