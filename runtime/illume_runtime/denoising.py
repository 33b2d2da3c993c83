"""The diffusion loop: latents from noise, guided by code maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from illume_kernels.flow import guided_step
from illume_kernels.philox import STREAM_NOISE, normal
from illume_runtime.errors import Cancelled
from illume_runtime.manifest import NoiseScheduler, Scheduler
from illume_runtime.results import Cancel, OnProgress, Progress
from illume_runtime.sampling import ImageSampling
from illume_runtime.schedule import Schedule
from illume_runtime.solver import SolverTable, solver_table
from illume_runtime.stages import Stages

Latents = NDArray[np.float32]
Model = Callable[[int, Latents], Latents]
BEST_STEPS = 2.5  # times the default number: quality `best`


def denoised(
    stages: Stages,
    schedule: Schedule,
    code_map: NDArray[np.float32],
    requests: Sequence[int],
    sampling: ImageSampling,
    *,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
) -> Latents:
    """Latents [B, C, Y, X] of code maps [B, Z, y, x]. Raises Cancelled within one step."""
    scheduler = stages.bundle.scheduler
    guidance = guidance_of(sampling)
    table = solver_table(scheduler, num_steps_of(scheduler, sampling))
    batch, guided = len(code_map), guidance != 1.0
    x = first_latents(scheduler, schedule, table, requests, sampling.seed)
    model = _model(stages, schedule, table, code_map, guided)
    previous: Latents | None = None
    for i, step in enumerate(table.steps):
        if cancel is not None and cancel():
            raise Cancelled(f"cancelled after {i} of {len(table.steps)} diffusion steps")
        scaled = x if step.scale == 1.0 else np.float32(step.scale) * x
        e = model(i, np.concatenate((scaled, scaled)) if guided else scaled)
        with stages.tracer.span("solver", num_bytes=6 * x.nbytes):
            uncond = e[batch:] if guided else None
            x, previous = guided_step(
                x, e[:batch], uncond, guidance, previous, p=step.p, q=step.q, a=step.a, b=step.b, c=step.c
            )
        if on_progress is not None:
            on_progress(Progress("diffusion", i + 1, len(table.steps), None))
    return x


def first_latents(
    scheduler: Scheduler | NoiseScheduler, schedule: Schedule, table: SolverTable, requests: Sequence[int], seed: int
) -> Latents:
    """The noise [B, C, Y, X] that each picture begins with, as its seed and its request say."""
    shape = latent_shape(scheduler, schedule)
    x = np.stack([normal(seed, request, STREAM_NOISE, shape) for request in requests])
    return x if table.initial == 1.0 else np.float32(table.initial) * x


def guidance_of(sampling: ImageSampling) -> float:
    """The guidance of the diffusion steps; 1 is none."""
    return 1.0 if sampling.diffusion_guidance is None else float(sampling.diffusion_guidance)


def num_steps_of(scheduler: Scheduler | NoiseScheduler, sampling: ImageSampling) -> int:
    """How many steps: those asked for, or what the quality means in this bundle."""
    if sampling.steps is not None:
        return sampling.steps
    factor = BEST_STEPS if sampling.quality == "best" else 1.0
    return min(round(factor * scheduler.default_steps), scheduler.max_steps)


def latent_shape(scheduler: Scheduler | NoiseScheduler, schedule: Schedule) -> tuple[int, int, int]:
    """Channels, rows and columns of the latents of one picture."""
    if isinstance(scheduler, Scheduler):
        return scheduler.latent_shape
    rows, columns = schedule.grids[-1]
    return scheduler.latent_channels, scheduler.latents_per_code * rows, scheduler.latents_per_code * columns


def _model(
    stages: Stages, schedule: Schedule, table: SolverTable, code_map: NDArray[np.float32], guided: bool
) -> Model:
    """The model's output for step number i and scaled latents; unconditional rows, which see no codes, come last."""
    scheduler = stages.bundle.scheduler
    zeros = [np.zeros_like(code_map)] if guided else []
    if isinstance(scheduler, Scheduler):
        codes = np.concatenate([code_map, *zeros])

        def velocity(i: int, latents: Latents) -> Latents:
            time = np.full(len(codes), table.steps[i].time, np.float32)
            feeds = {"latents": latents, "time": time, "code_map": codes}
            return stages.run("denoiser", feeds, step=i)["velocity"].astype(np.float32, copy=False)

        return velocity
    size = np.full(len(table.steps), scheduler.size_ids[schedule.name], np.float32)
    times = np.array([step.time for step in table.steps], np.float32)
    once = stages.run("conditioner", {"code_map": code_map, "time": times, "resolution": size})
    features = once["code_features"].astype(np.float32, copy=False)
    if guided:
        features = np.concatenate([features, np.zeros_like(features)])  # linear without bias: no codes give zeros
    shifts = once["shifts"].astype(np.float32, copy=False)

    def noise(i: int, latents: Latents) -> Latents:
        rows = np.broadcast_to(shifts[i], (len(latents), shifts.shape[1]))
        feeds = {"latents": latents, "code_features": features, "shifts": np.ascontiguousarray(rows)}
        return stages.run("denoiser", feeds, step=i)["noise"].astype(np.float32, copy=False)

    return noise
