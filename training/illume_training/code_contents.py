"""What the codes of the image tokenizer show: counted over pictures whose scenes are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from illume_training.lessons import Encode
from illume_training.vision import CLASSES, vision_batch

_NAMES = ("shape", "color", "size")  # as the label array has them, first
_PARTS, _PICTURES = 24, 128  # batches counted, and pictures of each


@dataclass(frozen=True, slots=True)
class CodeContents:
    """How often each code stood in a cell with the centre of an object, and of which: counts [codes, ...] float32."""

    cells: Tensor  # [codes] cells with this code
    shape: Tensor  # [codes, 8]
    color: Tensor  # [codes, 8]
    size: Tensor  # [codes, 3]

    @property
    def depicting(self) -> Tensor:
        """Codes [codes] bool that stand for an object more often than for anything else."""
        return self.shape.sum(1) > 0.5 * self.cells

    def words(self, embeddings: Tensor) -> Tensor:
        """Sum [codes, D] of the words of what a code depicts; `embeddings` [19, D] of shapes, colours, sizes.

        Zero for codes that depict nothing; where a code stands for several things, their mean.
        """
        shares = [counts / counts.sum(1, keepdim=True).clamp_min(1.0) for counts in (self.shape, self.color, self.size)]
        return torch.cat(shares, dim=1).to(embeddings) @ embeddings * self.depicting[:, None].to(embeddings)


def contents_of_codes(
    encode: Encode, num_codes: int, seed: str, batches: Sequence[int] = range(_PARTS)
) -> CodeContents:
    """Counts over training pictures."""
    cells = torch.zeros(num_codes)
    counts = [torch.zeros(num_codes, CLASSES[name]) for name in _NAMES]
    for batch in batches:
        pictures, labels, _ = vision_batch(f"{seed}-{batch}", "train", _PICTURES)
        found, classes = torch.from_numpy(encode(pictures)[1]).flatten(), torch.from_numpy(labels).flatten(0, 1)
        cells += torch.bincount(found, minlength=num_codes)
        for column, table in enumerate(counts):
            known = (classes[:, 0] > 0) & (classes[:, column] >= 0)
            where = (found[known], classes[known, column])
            table.index_put_(where, torch.ones(int(known.sum())), accumulate=True)
    return CodeContents(cells, counts[0][:, 1:], counts[1], counts[2])  # class 0 of the shapes is 'none'
