"""Training of the language model with its adapter: one next-token loss over text and codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models import Illume
from illume_training.dialogue import IMAGE, TEXT, Packed
from illume_training.lessons import Lessons

TEXT_WEIGHT = 5.0  # of a text token beside a code: an answer has few, and much of what a code could be is chance


@torch.no_grad()
def start_code_embeddings(model: Illume) -> None:
    """Puts the code vectors, turned at random into the model's width, into the embeddings of the codes.

    Codes that mean alike are then written alike from the first step, and what is learnt of one serves its neighbours.
    The noise that stays keeps near codes apart.
    """
    start, end = model.config.level0_segment
    vectors = model.image_tokenizer.code_vectors()
    turn, _ = torch.linalg.qr(torch.randn(model.config.language_model.hidden_size, vectors.shape[1]))
    table = model.language_model.model.embed_tokens.weight
    table[start:end] = 0.5 * table[start:end] + (vectors - vectors.mean(0)) @ turn.T.to(vectors)


class LanguageTrainer(nn.Module):
    """Language model and adapter: the two that the three stages train."""

    def __init__(self, model: Illume) -> None:
        super().__init__()
        self.config = model.config
        self.adapter = model.adapter
        self.language_model = model.language_model

    def loss(self, lessons: Lessons) -> tuple[Tensor, dict[str, float]]:
        """Negative log likelihood per lesson, tenths; each token only against its own vocabulary segment."""
        device = self.language_model.head_weight.device
        cells = self.adapter(lessons.features.to(device)).flatten(0, 1)  # [pictures * 64, D]
        text, image, num_text, num_image, num_rows = (torch.zeros((), device=device) for _ in range(5))
        for group in lessons.groups:
            hidden, ids, kinds = self._hidden(group, cells, device)
            for kind, (start, end) in ((TEXT, self.config.text_segment), (IMAGE, self.config.level0_segment)):
                learnt = kinds[:, 1:] == kind
                logits = self.language_model.logits(hidden[:, :-1][learnt], start, end).float()
                nll = F.cross_entropy(logits, ids[:, 1:][learnt] - start, reduction="sum")
                if kind == TEXT:
                    text, num_text = text + nll, num_text + learnt.sum()
                else:
                    image, num_image = image + nll, num_image + learnt.sum()
            num_rows = num_rows + ids.shape[0]
        loss = (TEXT_WEIGHT * text + image) / num_rows / 10.0
        figures = {
            "text_nll": float(text.detach() / num_text.clamp_min(1)),
            "picture_nll": 64.0 * float(image.detach() / num_image.clamp_min(1)),
        }
        return loss, figures

    def _hidden(self, group: Packed, cells: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        ids, where, kinds = (torch.from_numpy(a).to(device) for a in (group.ids, group.cells, group.losses))
        embeds = self.language_model.embed(ids)
        continuous = where >= 0
        embeds = torch.where(continuous[..., None], cells[where.clamp_min(0)].to(embeds.dtype), embeds)
        return self.language_model(embeds), ids, kinds
