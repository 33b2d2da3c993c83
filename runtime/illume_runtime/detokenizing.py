"""From codes to pixels: the fast decoder, or the diffusion loop and the VAE decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from illume_runtime.denoising import denoised
from illume_runtime.errors import Cancelled, UsageError
from illume_runtime.resizing import interpolated, resized
from illume_runtime.results import Cancel, OnProgress, Progress
from illume_runtime.sampling import ImageSampling
from illume_runtime.schedule import Codes, Schedule
from illume_runtime.stages import Stages

# Of a batch of the decoders: their activations are the largest of all stages.
PICTURES_AT_ONCE = 8
PIXELS_AT_ONCE = 8 * 256 * 256


def pixels_of_codes(
    stages: Stages,
    schedule: Schedule,
    codes: Sequence[Codes],
    requests: Sequence[int],
    sampling: ImageSampling,
    *,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> NDArray[np.float32]:
    """Pixels [B, 3, Y, X] in [-1, 1]; the noise of a picture depends on the seed and its request alone.

    Raises UsageError for a quality that the bundle has no stages for.
    """
    draft = is_draft(stages, sampling)
    with stages.tracer.span("noise"):
        code_map = _code_map(stages, schedule, codes)
    if draft:
        return _decoded(stages, "vq_decoder", "code_map", code_map, schedule, on_progress, cancel)
    denoise = denoised
    if stages.accelerator is not None:
        from illume_runtime.gpu.denoising import denoised_on_gpu as denoise
    latents = denoise(stages, schedule, code_map, requests, sampling, on_progress=on_progress, cancel=cancel)
    return _decoded(stages, "vae_decoder", "latents", latents, schedule, on_progress, cancel)


def preview_pixels(stages: Stages, schedule: Schedule, level0: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pixels [3, Y, X] in [-1, 1] of the first level's codes [y, x] alone, by the fast decoder."""
    with stages.tracer.span("preview"):
        code_map = _code_map(stages, schedule, [(level0,)])
        pixels: NDArray[np.float32] = _decoded(stages, "vq_decoder", "code_map", code_map, schedule, None, None)[0]
    return pixels


def check_preview(stages: Stages, schedule: Schedule) -> None:
    """Raises UsageError where there is nothing to preview, or nothing to do it with."""
    if len(schedule.grids) < 2:
        raise UsageError(
            f"preview: the family {stages.bundle.family} draws in one level of visual tokens only, so that there is "
            "nothing to show before the picture; leave the preview out"
        )
    if "vq_decoder" not in stages.bundle.stages:
        raise UsageError("preview: this bundle has no fast decoder; leave the preview out")


def is_draft(stages: Stages, sampling: ImageSampling) -> bool:
    """Whether the fast decoder makes the picture: as asked, or because there is no other. Raises UsageError."""
    has = {name: name in stages.bundle.stages for name in ("vq_decoder", "denoiser")}
    if sampling.quality == "draft" and not has["vq_decoder"]:
        raise UsageError("quality: this bundle has no fast decoder; leave it out, or take standard or best")
    if sampling.quality in ("standard", "best") and not has["denoiser"]:
        raise UsageError(f"quality: this bundle has no diffusion decoder for {sampling.quality!r}; take draft")
    return has["vq_decoder"] and (sampling.quality == "draft" or not has["denoiser"])


def _decoded(
    stages: Stages,
    stage: str,
    name: str,
    array: NDArray[np.float32],
    schedule: Schedule,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
) -> NDArray[np.float32]:
    """Pixels of code maps or latents, some at a time."""
    batch = min(PICTURES_AT_ONCE, max(1, PIXELS_AT_ONCE // (schedule.width * schedule.height)))
    parts = []
    for first in range(0, len(array), batch):
        if cancel is not None and cancel():
            raise Cancelled(f"cancelled after {first} of {len(array)} pictures")
        part = stages.run(stage, {name: array[first : first + batch]})["pixels"]
        parts.append(part.astype(np.float32, copy=False))
        if on_progress is not None:
            on_progress(Progress("pixels", min(first + batch, len(array)), len(array), None))
    return np.concatenate(parts)


def _code_map(stages: Stages, schedule: Schedule, codes: Sequence[Codes]) -> NDArray[np.float32]:
    """Code vectors [B, C, Y, X] of all levels, coarser ones resized to the grid of the last.

    A level that is not drawn yet stands there as the mean of its codes' vectors: of all constants the one nearest to
    them in the mean square.
    """
    rows, columns = schedule.grids[-1]
    maps = []
    for level, grid in enumerate(schedule.grids):
        table = stages.bundle.table("code_embedding" if level == 0 else f"code_embedding_level{level}")
        if level < len(codes[0]):
            vectors = table[np.stack([one[level] for one in codes])].transpose(0, 3, 1, 2).astype(np.float32)
        else:
            mean = table.astype(np.float64).mean(axis=0).astype(np.float32)
            vectors = np.broadcast_to(mean[:, None, None], (len(codes), len(mean), *grid))
        if grid != (rows, columns):
            vectors = resized(vectors, interpolated(grid[0], rows), interpolated(grid[1], columns))
        maps.append(vectors)
    return np.ascontiguousarray(np.concatenate(maps, axis=1), np.float32)
