"""The diffusion loop without the host: one program a step, captured once and replayed.

A step takes its row of the tables by a counter on the device, which the solver advances, runs the denoiser, and makes
the next latents and the input of the next step of its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from illume_kernels.step_launch import gather_embedding, guidance_step
from illume_runtime.denoising import Latents, first_latents, guidance_of, num_steps_of
from illume_runtime.device.array import DeviceArray
from illume_runtime.device.protocol import Event
from illume_runtime.errors import Cancelled
from illume_runtime.gpu.accelerator import Accelerator
from illume_runtime.gpu.program import Program
from illume_runtime.gpu.session import device_session
from illume_runtime.manifest import Scheduler
from illume_runtime.results import Cancel, OnProgress, Progress
from illume_runtime.sampling import ImageSampling
from illume_runtime.schedule import Schedule
from illume_runtime.solver import SolverTable, solver_table
from illume_runtime.stages import Stages


def denoised_on_gpu(
    stages: Stages,
    schedule: Schedule,
    code_map: NDArray[np.float32],
    requests: Sequence[int],
    sampling: ImageSampling,
    *,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
) -> Latents:
    """As `denoised`; in parts where the denoiser's engine takes fewer pictures at once."""
    guidance = guidance_of(sampling)
    most = device_session(stages["denoiser"]).max_rows
    largest = len(requests) if most is None else max(most // (1 if guidance == 1.0 else 2), 1)
    parts = [
        _denoised(stages, schedule, code_map[i : i + largest], requests[i : i + largest], sampling, on_progress, cancel)
        for i in range(0, len(requests), largest)
    ]
    return np.concatenate(parts)


def _denoised(
    stages: Stages,
    schedule: Schedule,
    code_map: NDArray[np.float32],
    requests: Sequence[int],
    sampling: ImageSampling,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
) -> Latents:
    accelerator = stages.accelerator
    assert accelerator is not None
    scheduler = stages.bundle.scheduler
    guidance = guidance_of(sampling)
    table = solver_table(scheduler, num_steps_of(scheduler, sampling))
    noise = first_latents(scheduler, schedule, table, requests, sampling.seed)
    x = accelerator.uploaded(noise)
    program, kept = _program(stages, accelerator, schedule, table, code_map, guidance, x, noise)
    num_steps = len(table.steps)
    num_rows = len(noise) * (1 if guidance == 1.0 else 2)
    describe = partial(stages.work, "denoiser", stages.bundle.stage("denoiser"), num_rows)
    before: Event | None = None
    try:
        for i in range(num_steps):
            if cancel is not None and cancel():
                raise Cancelled(f"cancelled after {i} of {num_steps} diffusion steps")
            with accelerator.track.span(stages.tracer, partial(describe, step=i)):
                program.run()
            if on_progress is None:
                continue
            if before is not None:  # one step stays under way
                before.synchronize()
                on_progress(Progress("diffusion", i, num_steps, None))
            before = accelerator.stream.record()
        latents: Latents = accelerator.downloaded(x).astype(np.float32, copy=False)
    except BaseException:
        accelerator.stream.synchronize()
        raise
    del kept  # the device is done with it
    if on_progress is not None:
        on_progress(Progress("diffusion", num_steps, num_steps, None))
    return latents


def _program(
    stages: Stages,
    accelerator: Accelerator,
    schedule: Schedule,
    table: SolverTable,
    code_map: NDArray[np.float32],
    guidance: float,
    x: DeviceArray,
    noise: Latents,
) -> tuple[Program, list[DeviceArray]]:
    """The program of a step, and the arrays that it works on."""
    session = device_session(stages["denoiser"])
    batch, sides = x.shape[0], 1 if guidance == 1.0 else 2
    rows, num_elements = batch * sides, int(np.prod(x.shape[1:]))
    scaled = np.float32(table.steps[0].scale) * noise
    latents = accelerator.uploaded(np.concatenate([scaled] * sides))
    output = accelerator.array(latents.shape, np.float32)
    previous = accelerator.array(x.shape, np.float32)
    state = accelerator.array((2,), np.uint32)
    scales = [*(step.scale for step in table.steps[1:]), 1.0]
    coefficients = accelerator.uploaded(
        np.array([(s.p, s.q, s.a, s.b, s.c, scale) for s, scale in zip(table.steps, scales, strict=True)], np.float32)
    )
    inputs, of_step = _inputs(stages, accelerator, schedule, table, code_map, sides, rows)
    name, values = of_step
    now = accelerator.array((rows, *values.shape[2:]), np.float32)
    by_step = accelerator.uploaded(values)
    take = gather_embedding(
        by_step.address,
        state.address,
        0,
        now.address,
        num_ids=len(values),
        width=int(np.prod(now.shape)),
        start=0,
        batch=1,
        num_appended=0,
        sides=1,
    )
    run = session.bind_device({"latents": latents, **inputs, name: now}, {session.spec.outputs[0].name: output})
    solve = guidance_step(
        accelerator.device.gpu,
        x.address,
        previous.address,
        output.address,
        latents.address,
        coefficients.address,
        state.address,
        dtype="float32",
        batch=batch,
        num_elements=num_elements,
        input_stride=num_elements,
        guidance=guidance,
        is_guided=sides == 2,
    )
    program = Program(
        accelerator.stream,
        [
            (lambda: accelerator.launch(take), True),
            (run.enqueue, run.is_capturable),
            (lambda: accelerator.launch(solve), True),
        ],
    )
    return program, [latents, output, previous, state, coefficients, now, by_step, *inputs.values()]


def _inputs(
    stages: Stages,
    accelerator: Accelerator,
    schedule: Schedule,
    table: SolverTable,
    code_map: NDArray[np.float32],
    sides: int,
    rows: int,
) -> tuple[dict[str, DeviceArray], tuple[str, NDArray[np.float32]]]:
    """What stays the same in all steps, and the input [steps, rows, ...] that does not."""
    scheduler = stages.bundle.scheduler
    times = np.array([step.time for step in table.steps], np.float32)
    zeros = [np.zeros_like(code_map)] * (sides - 1)
    if isinstance(scheduler, Scheduler):
        codes = accelerator.uploaded(np.concatenate([code_map, *zeros]))
        return {"code_map": codes}, ("time", np.repeat(times[:, None], rows, axis=1))
    size = np.full(len(times), scheduler.size_ids[schedule.name], np.float32)
    once = stages.run("conditioner", {"code_map": code_map, "time": times, "resolution": size})
    features = once["code_features"].astype(np.float32, copy=False)
    nothing = [np.zeros_like(features)] * (sides - 1)  # linear without bias: no codes give zeros
    shifts = once["shifts"].astype(np.float32, copy=False)
    return (
        {"code_features": accelerator.uploaded(np.concatenate([features, *nothing]))},
        ("shifts", np.repeat(shifts[:, None], rows, axis=1)),
    )
