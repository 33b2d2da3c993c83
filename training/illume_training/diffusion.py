"""Training of the diffusion detokenizer: a rectified flow over latents, conditioned on the codes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def flow_loss(
    denoiser: Callable[[Tensor, Tensor, Tensor], Tensor], latents: Tensor, code_map: Tensor, *, drop: float, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """Squared error of the velocity at random times; `drop` of the rows have no condition (zeros).

    Times follow a logit-normal law (Esser et al., 2024), which spends the steps where the flow is hard.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    B = latents.shape[0]
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    time = torch.sigmoid(torch.randn(B, generator=generator) * 1.2 + 0.3).to(latents)
    kept = (torch.rand(B, generator=generator) >= drop).to(latents)
    t = time[:, None, None, None]
    noisy = (1.0 - t) * latents + t * noise
    velocity = denoiser(noisy, time, code_map * kept[:, None, None, None]).float()
    loss = (velocity - (noise - latents)).square().mean()
    return loss, {"velocity_mse": float(loss.detach())}
