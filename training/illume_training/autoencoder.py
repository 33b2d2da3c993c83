"""VAE training on crops: pixels -> latents -> pixels."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from illume_export.models.vae import Vae
from illume_training.vision import sample_pictures
from illume_training.world import render
from illume_training.world.palette import IMAGE_SIZE

CROP = 96  # pixels; the VAE is convolutional, so that crops train the whole
STYLE_SHARES = (0.5, 0.35, 0.15)  # of the crops, in the order of STYLES
_SIZE_WEIGHTS = {"small": 3.0, "medium": 1.5, "large": 1.0}  # how often an object is the one in the middle of a crop
_EDGE_WEIGHT = 30.0  # of a pixel where the picture changes, beside 1 where it is flat
_NOISE = 0.1  # added to the latents, in units of their spread: about what the denoiser leaves


def crop_batch(seed: str, count: int) -> NDArray[np.uint8]:
    """Crops [count, 96, 96, 3] of training pictures, each around a random object; a tenth of them masked."""
    rng = Random(seed)
    scenes, masks = sample_pictures(rng, "train", count, STYLE_SHARES)
    crops = np.empty((count, CROP, CROP, 3), np.uint8)
    for i, (scene, mask) in enumerate(zip(scenes, masks, strict=True)):
        picture = render(scene, mask)
        o = rng.choices(scene.objects, [_SIZE_WEIGHTS[o.size] for o in scene.objects])[0]
        x, y = (min(max(round((c - CROP // 2) / 16) * 16, 0), IMAGE_SIZE - CROP) for c in (o.x, o.y))
        crops[i] = picture[y : y + CROP, x : x + CROP]
    return crops


def vae_loss(vae: Vae, pixels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Absolute and squared error and a light KL term; edges count more, as most pixels are flat.

    The latents are decoded with noise: what is written into their least digits would be lost on the denoiser.
    """
    mean, log_var = vae.moments(pixels)
    mean, log_var = mean.float(), log_var.float()
    spread = mean.detach().std(dim=(0, 2, 3), keepdim=True)
    raw = mean + torch.randn_like(mean) * ((0.5 * log_var).exp() + _NOISE * spread)
    error = vae.decode_raw(raw).float() - pixels
    with torch.no_grad():
        local = F.avg_pool2d(pixels, 5, stride=1, padding=2, count_include_pad=False)
        edges = 1.0 + _EDGE_WEIGHT * (6.0 * (pixels - local).abs().amax(dim=1, keepdim=True)).clamp(max=1.0)
    kl = 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).mean()
    loss = (edges * error.abs()).mean() + (edges * error.square()).mean() + 2e-4 * kl
    psnr = -10.0 * torch.log10(error.detach().square().mean() / 4.0)
    return loss, {"psnr_db": float(psnr), "kl": float(kl.detach())}


@torch.no_grad()
def measure_latents(vae: Vae, pixels: Tensor) -> None:
    """Sets the buffers that bring the latents to zero mean and unit variance, per channel."""
    mean, _ = vae.moments(pixels)
    vae.latent_mean.copy_(mean.mean(dim=(0, 2, 3), keepdim=True))
    vae.latent_std.copy_(mean.std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-3))
