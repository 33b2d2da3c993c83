"""From codes to pixels: the diffusion loop and the VAE decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from illume_kernels.flow import guided_step
from illume_kernels.philox import STREAM_NOISE, normal
from illume_runtime.errors import Cancelled
from illume_runtime.results import Cancel, OnProgress, Progress
from illume_runtime.sampling import ImageSampling
from illume_runtime.schedule import Codes
from illume_runtime.solver import solver_table
from illume_runtime.stages import Stages

VAE_BATCH = 8  # pictures that the VAE decodes at once: its activations are the largest of all stages


def pixels_of_codes(
    stages: Stages,
    codes: Sequence[Codes],
    requests: Sequence[int],
    sampling: ImageSampling,
    *,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> NDArray[np.float32]:
    """Pixels [B, 3, Y, X] in [-1, 1]; the noise of a picture depends on the seed and its request alone."""
    scheduler = stages.bundle.scheduler
    guidance = 1.0 if sampling.diffusion_guidance is None else float(sampling.diffusion_guidance)
    batch = len(codes)
    with stages.tracer.span("noise"):
        code_map = _code_map(stages, codes)
        if guidance != 1.0:
            code_map = np.concatenate((code_map, np.zeros_like(code_map)))
        x = np.stack([normal(sampling.seed, request, STREAM_NOISE, scheduler.latent_shape) for request in requests])
        table = solver_steps(scheduler.solver, sampling.steps or scheduler.default_steps, scheduler.shift)
    previous: NDArray[np.float32] | None = None
    for i, step in enumerate(table):
        if cancel is not None and cancel():
            raise Cancelled(f"cancelled after {i} of {len(table)} diffusion steps")
        feeds = {
            "latents": x if guidance == 1.0 else np.concatenate((x, x)),
            "time": np.full(len(code_map), step.time, np.float32),
            "code_map": code_map,
        }
        velocity = stages.run("denoiser", feeds, step=i)["velocity"].astype(np.float32, copy=False)
        with stages.tracer.span("solver", num_bytes=6 * x.nbytes):
            uncond = velocity[batch:] if guidance != 1.0 else None
            x, previous = guided_step(x, velocity[:batch], uncond, guidance, previous, step.dt, step.c_cur, step.c_prev)
        if on_progress is not None:
            on_progress(Progress("diffusion", i + 1, len(table), None))
    return _decode(stages, x, on_progress, cancel)


def _decode(
    stages: Stages, latents: NDArray[np.float32], on_progress: OnProgress | None, cancel: Cancel | None
) -> NDArray[np.float32]:
    parts = []
    for first in range(0, len(latents), VAE_BATCH):
        if cancel is not None and cancel():
            raise Cancelled(f"cancelled after {first} of {len(latents)} pictures")
        part = stages.run("vae_decoder", {"latents": latents[first : first + VAE_BATCH]})["pixels"]
        parts.append(part.astype(np.float32, copy=False))
        if on_progress is not None:
            on_progress(Progress("pixels", min(first + VAE_BATCH, len(latents)), len(latents), None))
    return np.concatenate(parts)


def _code_map(stages: Stages, codes: Sequence[Codes]) -> NDArray[np.float32]:
    """Code vectors [B, C, Y, X] of the first level."""
    table = stages.bundle.table("code_embedding")
    vectors = table[np.stack([levels[0] for levels in codes])]  # [B, Y, X, C]
    return np.ascontiguousarray(vectors.transpose(0, 3, 1, 2), np.float32)
