"""Training of the language model with its adapter: one next-token loss over text and codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models import Illume
from illume_training.dialogue import IMAGE, TEXT, Packed
from illume_training.lessons import Lessons

TEXT_WEIGHT = 10.0  # of a text token beside a code: an answer has few, and much of what a code could be is chance
WHAT_WEIGHT = 6.0  # of what an object is, beside where it is: where is mostly chance, what is in the words


class LanguageTrainer(nn.Module):
    """Language model and adapter: the two that the three stages train.

    `depicting` [codes] bool: codes that stand for an object.
    """

    def __init__(self, model: Illume, depicting: Tensor | None = None) -> None:
        super().__init__()
        if depicting is None:
            depicting = torch.zeros(model.image_tokenizer.codebook.shape[0], dtype=torch.bool)
        self.register_buffer("depicting", depicting, persistent=False)
        self.depicting: Tensor
        self.config = model.config
        self.adapter = model.adapter
        self.language_model = model.language_model

    def loss(self, lessons: Lessons) -> tuple[Tensor, dict[str, float]]:
        """Negative log likelihood per lesson, tenths; each token only against its own vocabulary segment.

        That of a code which depicts an object has two parts: that here is an object, and which. The second weighs more.
        Both are proper scores, so that the weight moves no probability that the model should end with.
        """
        device = self.language_model.head_weight.device
        cells = self.adapter(lessons.features.to(device)).flatten(0, 1)  # [pictures * 64, D]
        text, image, what, num_text, num_image, num_rows = (torch.zeros((), device=device) for _ in range(6))
        for group in lessons.groups:
            hidden, ids, kinds = self._hidden(group, cells, device)
            for kind, (start, end) in ((TEXT, self.config.text_segment), (IMAGE, self.config.level0_segment)):
                learnt = kinds[:, 1:] == kind
                logits = self.language_model.logits(hidden[:, :-1][learnt], start, end).float()
                targets = ids[:, 1:][learnt] - start
                nll = F.cross_entropy(logits, targets, reduction="sum")
                if kind == TEXT:
                    text, num_text = text + nll, num_text + learnt.sum()
                else:
                    image, num_image = image + nll, num_image + learnt.sum()
                    what = what + self._which_object(logits, targets)
            num_rows = num_rows + ids.shape[0]
        loss = (TEXT_WEIGHT * text + image + (WHAT_WEIGHT - 1.0) * what) / num_rows / 10.0
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
        among = logits[objects].masked_fill(~self.depicting, float("-inf"))
        return F.cross_entropy(among, codes[objects], reduction="sum")

    def _hidden(self, group: Packed, cells: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        ids, where, kinds = (torch.from_numpy(a).to(device) for a in (group.ids, group.cells, group.losses))
        embeds = self.language_model.embed(ids)
        continuous = where >= 0
        embeds = torch.where(continuous[..., None], cells[where.clamp_min(0)].to(embeds.dtype), embeds)
        return self.language_model(embeds), ids, kinds
