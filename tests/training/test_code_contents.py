"""What codes show: counts over scenes, and the words that follow from them."""

from __future__ import annotations

import numpy as np
import torch

from illume_training.code_contents import CodeContents, contents_of_codes
from illume_training.vision import vision_batch


def _contents() -> CodeContents:
    """Four codes: empty, a red circle mostly, a circle or a star, unused."""
    shape, color, size = torch.zeros(4, 8), torch.zeros(4, 8), torch.zeros(4, 3)
    shape[0, 3], shape[1, 0], shape[2, 0], shape[2, 4] = 1.0, 10.0, 5.0, 5.0
    color[1, 0], color[2, 1], size[1, 2], size[2, 0] = 10.0, 10.0, 10.0, 10.0
    return CodeContents(torch.tensor([100.0, 12.0, 10.0, 0.0]), shape, color, size)


def test_a_code_depicts_what_it_mostly_stands_for():
    assert _contents().depicting.tolist() == [False, True, True, False]


def test_words_are_those_of_the_object_and_a_mean_where_there_are_several():
    words = _contents().words(torch.eye(19))
    assert torch.equal(words[1], torch.eye(19)[[0, 8, 18]].sum(0))
    assert torch.equal(words[2], torch.eye(19)[[0, 4]].mul(0.5).sum(0) + torch.eye(19)[[9, 16]].sum(0))
    assert not words[[0, 3]].any()


def test_counts_are_those_of_the_labels():
    _, labels, _ = vision_batch("seed-0", "train", 128)
    right = labels[..., 0].reshape(-1, 8, 8)  # a tokenizer that sees shapes and nothing else

    contents = contents_of_codes(lambda pictures: (torch.zeros(0), right[: len(pictures)]), 9, "seed", [0])

    assert contents.cells.tolist() == np.bincount(labels[..., 0].ravel(), minlength=9).tolist()
    assert torch.equal(contents.shape[1:], torch.diag(contents.cells[1:]))
    assert contents.depicting.tolist() == [False] + 8 * [True]
    assert (contents.size.sum(1)[1:] == contents.cells[1:]).all()
