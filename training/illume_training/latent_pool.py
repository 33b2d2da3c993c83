"""The pictures that the denoiser learns from, encoded once: encoding one costs as much as learning from it."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from illume_export.models import Illume
from illume_training.precision import products_in
from illume_training.vision import pixels_from_pictures, vision_batch

PICTURES = 16384
_BATCH = 64


@torch.no_grad()
def encoded_pictures(model: Illume, seed: str, products: torch.dtype, num_pictures: int) -> dict[str, Tensor]:
    """`latents` [num_pictures, C, h, w] float16 and `codes` [num_pictures, 8, 8] int16 of training pictures.

    `num_pictures` is a multiple of 64.
    """
    device = model.image_tokenizer.codebook.device
    latents, codes = [], []
    for part in tqdm(range(num_pictures // _BATCH), desc="latents", mininterval=5.0):
        pictures, _, _ = vision_batch(f"{seed}-{part}", "train", _BATCH)
        pixels = pixels_from_pictures(pictures).to(device)
        codes.append(model.image_tokenizer.encode(model.vision_encoder(pixels)).short().cpu())
        with products_in(products, device):
            encoded = model.vae.encode(pixels.contiguous(memory_format=torch.channels_last))
        latents.append(encoded.half().cpu())
    return {"latents": torch.cat(latents), "codes": torch.cat(codes)}
