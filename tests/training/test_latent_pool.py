"""The pool that the denoiser learns from."""

from __future__ import annotations

from collections import Counter
from random import Random

import torch

from illume_training.latent_pool import STYLE_SHARES, pool_batch
from illume_training.vision import sample_pictures


def test_a_batch_holds_rows_of_the_pool_with_their_codes_and_depends_on_the_seed_alone():
    pool = {
        "latents": torch.arange(10.0).view(10, 1, 1, 1).expand(10, 2, 4, 4).half(),
        "codes": torch.arange(10, dtype=torch.int16).view(10, 1, 1).expand(10, 8, 8),
    }

    latents, codes = pool_batch(pool, 5, 3, torch.device("cpu"))
    again, _ = pool_batch(pool, 5, 3, torch.device("cpu"))
    other, _ = pool_batch(pool, 5, 4, torch.device("cpu"))

    assert (latents.dtype, codes.dtype) == (torch.float32, torch.int64)
    assert (latents.shape, codes.shape) == ((5, 2, 4, 4), (5, 8, 8))
    assert torch.equal(latents[:, 0, 0, 0].long(), codes[:, 0, 0])
    assert torch.equal(latents, again)
    assert not torch.equal(latents, other)


def test_styles_have_their_shares():
    scenes, masks = sample_pictures(Random("shares"), "train", 600, STYLE_SHARES)

    counts = Counter(scene.style for scene, mask in zip(scenes, masks, strict=True) if mask is None)

    for style, share in zip(("plain", "outline", "sepia"), STYLE_SHARES, strict=True):
        assert abs(counts[style] / counts.total() - share) < 0.06  # three standard deviations
