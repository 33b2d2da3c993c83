"""The pictures that the denoiser learns from, encoded once: encoding one costs as much as learning from it."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from illume_export.models import Illume
from illume_training.precision import products_in
from illume_training.vision import pixels_from_pictures, sample_pictures
from illume_training.world import render

PICTURES = 20480
STYLE_SHARES = (0.5, 0.3, 0.2)  # in the order of STYLES
_BATCH = 64


@torch.no_grad()
def encoded_pictures(model: Illume, seed: str, products: torch.dtype, num_pictures: int) -> dict[str, Tensor]:
    """`latents` [num_pictures, C, h, w] float16 and `codes` [num_pictures, 8, 8] int16 of training pictures.

    `num_pictures` is a multiple of 64.
    """
    device = model.image_tokenizer.codebook.device
    latents, codes = [], []
    for part in tqdm(range(num_pictures // _BATCH), desc="latents", mininterval=5.0):
        scenes, masks = sample_pictures(Random(f"{seed}-{part}"), "train", _BATCH, STYLE_SHARES)
        pictures = np.stack([render(scene, mask) for scene, mask in zip(scenes, masks, strict=True)])
        pixels = pixels_from_pictures(pictures).to(device)
        codes.append(model.image_tokenizer.encode(model.vision_encoder(pixels)).short().cpu())
        with products_in(products, device):
            encoded = model.vae.encode(pixels.contiguous(memory_format=torch.channels_last))
        latents.append(encoded.half().cpu())
    return {"latents": torch.cat(latents), "codes": torch.cat(codes)}


def pool_batch(pool: dict[str, Tensor], count: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random latents [count, C, h, w] float32 of the pool, and their codes [count, 8, 8] int64."""
    picks = torch.randint(len(pool["latents"]), (count,), generator=torch.Generator().manual_seed(seed))
    return pool["latents"][picks].float().to(device), pool["codes"][picks].long().to(device)
