"""Crops and loss of the VAE."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import torch

from illume_export.models import IllumeConfig
from illume_export.models.vae import Vae
from illume_training import autoencoder
from illume_training.autoencoder import CROP, crop_batch, measure_latents, vae_loss
from illume_training.vision import pixels_from_pictures
from illume_training.world import Scene
from illume_training.world.scene import Background, SceneObject


def test_crops_lie_on_the_grid_of_latents_around_an_object_and_small_ones_come_most_often(monkeypatch):
    small = SceneObject(1, 1, "star", "red", "small", 4, -4)
    large = SceneObject(6, 6, "circle", "blue", "large", -4, 4)
    scene = Scene((small, large), Background("white"))
    monkeypatch.setattr(
        autoencoder, "sample_pictures", lambda rng, split, count, shares: ([scene] * count, [None] * count)
    )
    corners = np.stack(np.broadcast_arrays(*np.mgrid[:256, :256][::-1], 0), axis=-1).astype(np.uint8)
    monkeypatch.setattr(autoencoder, "render", lambda scene, mask: corners)

    crops = crop_batch("seed", 200)

    assert crops.shape == (200, CROP, CROP, 3)
    places = Counter(tuple(crop[0, 0, :2].tolist()) for crop in crops)
    assert len(places) == 2
    for (x, y), o in zip(sorted(places), (small, large), strict=True):
        assert x % 16 == y % 16 == 0
        assert x + 30 <= o.x <= x + CROP - 30
        assert y + 30 <= o.y <= y + CROP - 30
    assert places[min(places)] > 2 * places[max(places)]


def test_an_error_at_an_edge_weighs_more_than_one_on_flat_ground():
    class Off(Vae):
        """Decodes to the pixels plus an error of 0.1 in one column."""

        column = 0

        def moments(self, pixels):
            return torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)

        def decode_raw(self, raw):
            off = pixels.clone()
            off[..., self.column] += 0.1
            return off

    pixels = torch.full((1, 3, 32, 32), -1.0)
    pixels[..., 16:] = 1.0
    vae, losses = Off(IllumeConfig.tiny()), []
    for vae.column in (16, 28):
        losses.append(float(vae_loss(vae, pixels)[0]))

    assert losses[0] > 20 * losses[1] > 0


def test_measured_latents_have_zero_mean_and_unit_variance():
    torch.manual_seed(0)
    vae = Vae(IllumeConfig.tiny())
    pixels = pixels_from_pictures(
        np.stack([Random(i).randbytes(64 * 64 * 3) for i in range(4)]).view(np.uint8).reshape(4, 64, 64, 3)
    )

    measure_latents(vae, pixels)
    latents = vae.encode(pixels)

    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(16), atol=1e-3)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(16), atol=1e-3)
