"""Training of the semantic image tokenizer: quantized features must reconstruct the features.

The loss is the cosine distance between the features and their reconstruction, as in ILLUME. Beside it the frozen
linear probe of the encoder's pretraining reads the reconstruction: what the picture means must survive, what it does
not (the exact offset of a centre, say) may go. The codebook learns by exponential moving averages (van den Oord et
al., 2017), starts from real vectors, and codes that fall out of use are replaced by real vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from illume_export.models.image_tokenizer import ImageTokenizer
from illume_training.vision import CellProbe, probe_loss


class QuantizerTrainer(nn.Module):
    """The tokenizer and the state of its codebook's averages."""

    def __init__(
        self, tokenizer: ImageTokenizer, probe: CellProbe, *, decay: float = 0.98, revive_every: int = 50
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.probe = probe.requires_grad_(False)
        self.tokenizer.codebook.requires_grad_(False)
        self.decay, self.revive_every = decay, revive_every
        num_codes = tokenizer.codebook.shape[0]
        self.register_buffer("usage", torch.zeros(num_codes))
        self.register_buffer("sums", torch.zeros_like(tokenizer.codebook))
        self.usage: Tensor
        self.sums: Tensor

    def loss(self, features: Tensor, classes: Tensor, offsets: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss on features [B, 64, C] with the labels of their cells; updates the codebook."""
        tokenizer = self.tokenizer
        vectors = tokenizer.vectors(features).float()
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            flat = vectors.detach().flatten(0, 1)
            if step == 0:
                self._replace(torch.ones_like(self.usage, dtype=torch.bool), flat, classes)
            codes = tokenizer.nearest(flat)
            self._average(flat, codes)
            if step % self.revive_every == self.revive_every - 1:
                self._replace(self.usage < 0.05, flat, classes)
            chosen = tokenizer.code_vectors()[codes].view_as(vectors)
        commitment = (1.0 - (vectors * chosen).sum(-1)).mean()
        straight = vectors + (chosen - vectors).detach()
        rebuilt = tokenizer.decode(straight)
        cosine = 1.0 - F.cosine_similarity(rebuilt.float(), features.float(), dim=-1).mean()
        meaning = probe_loss(self.probe(rebuilt), classes, offsets)
        loss = cosine + 0.25 * commitment + 0.2 * meaning
        figures = {
            "cosine": float(cosine.detach()),
            "meaning": float(meaning.detach()),
            "used": float((self.usage > 0.05).float().mean()),
        }
        return loss, figures

    def _average(self, vectors: Tensor, codes: Tensor) -> None:
        counts = torch.bincount(codes, minlength=self.usage.numel()).float()
        sums = torch.zeros_like(self.sums).index_add_(0, codes, vectors)
        self.usage.lerp_(counts, 1.0 - self.decay)
        self.sums.lerp_(sums, 1.0 - self.decay)
        live = self.usage > 1e-4
        self.tokenizer.codebook[live] = F.normalize(self.sums[live], dim=-1)

    def _replace(self, dead: Tensor, vectors: Tensor, classes: Tensor) -> None:
        """New codes from random vectors, three in four of them from cells with an object (most cells have none)."""
        count = int(dead.sum())
        if count == 0:
            return
        weight = torch.where(classes[..., 0].flatten() > 0, 1.0, 0.0)
        share = weight.sum() / weight.numel()
        weight = weight * 3.0 * (1.0 - share) / share.clamp_min(1e-6) + (1.0 - weight)
        picks = torch.multinomial(weight, count, replacement=count > vectors.shape[0])
        self.tokenizer.codebook[dead] = vectors[picks]
        self.usage[dead] = 0.5
        self.sums[dead] = 0.5 * vectors[picks]


@torch.no_grad()
def color_of_codes(codes: Tensor, pixels: Tensor, num_codes: int) -> Tensor:
    """Mean colour [codes, 3] in 0..255 of the cells [B, 8, 8] that carry a code; grey for codes never seen."""
    cells = F.avg_pool2d((pixels + 1.0) * 127.5, 32).permute(0, 2, 3, 1).reshape(-1, 3)
    counts = torch.bincount(codes.flatten(), minlength=num_codes).float()
    sums = torch.zeros(num_codes, 3).index_add_(0, codes.flatten(), cells)
    return torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1.0), torch.full((1, 3), 128.0))
