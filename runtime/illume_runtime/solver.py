"""Tables of the diffusion loop, in float64: everything about a step that does not depend on the picture.

    e  = model(scale x, time)         guided
    m  = p x + q e                    what is remembered of the step: a velocity, the noise, or the clean picture
    x' = a x + b m + c m_previous

A rectified flow (Liu et al., 2022) runs from time 1 (noise) to 0 (data) along dx/dt = velocity: `euler` is first order,
`ab2` the second-order Adams-Bashforth method for steps of any length, whose first step is Euler's.

A model that predicts noise runs down the levels sigma_t of its training: `euler` in x = x0 + sigma e (Karras et al.,
2022), `ddim` (Song et al., 2021) and `dpmpp_2m` (Lu et al., DPM-Solver++, 2022) in x = alpha x0 + sigma' e. They end at
sigma 0, or at the first level of the training where the scheduler says so (`set_alpha_to_one: false` of a DDIM
scheduler in diffusers, `final_sigmas_type: sigma_min` of an Euler one); that of `dpmpp_2m` is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.manifest import NoiseScheduler, Scheduler

FLOW_SOLVERS = ("euler", "ab2")
NOISE_SOLVERS = ("euler", "ddim", "dpmpp_2m")


@dataclass(frozen=True, slots=True)
class SolverStep:
    """The coefficients of one step."""

    time: float
    scale: float
    p: float
    q: float
    a: float
    b: float
    c: float


@dataclass(frozen=True, slots=True)
class SolverTable:
    """All steps; the first latents are `initial` times Gaussian noise."""

    initial: float
    steps: tuple[SolverStep, ...]


def solver_table(scheduler: Scheduler | NoiseScheduler, num_steps: int) -> SolverTable:
    """The table of `num_steps` steps. Raises InvalidBundleError for an unknown solver, UsageError for the number."""
    known = solvers_of(scheduler)
    if scheduler.solver not in known:
        raise InvalidBundleError(f"scheduler: got solver {scheduler.solver!r}, expected one of {', '.join(known)}")
    if isinstance(scheduler, Scheduler):
        return SolverTable(1.0, _flow_steps(scheduler, num_steps))
    return _noise_table(scheduler, num_steps)


def solvers_of(scheduler: Scheduler | NoiseScheduler) -> tuple[str, ...]:
    """The names of the solvers for this kind of model."""
    return FLOW_SOLVERS if isinstance(scheduler, Scheduler) else NOISE_SOLVERS


def _flow_steps(scheduler: Scheduler, num_steps: int) -> tuple[SolverStep, ...]:
    """`shift` s moves times by t -> s t / (1 + (s - 1) t) (Esser et al., 2024)."""
    even = np.linspace(1.0, 0.0, num_steps + 1)
    times = scheduler.shift * even / (1.0 + (scheduler.shift - 1.0) * even)
    steps = np.diff(times)
    table = []
    for i, (time, dt) in enumerate(zip(times[:-1].tolist(), steps.tolist(), strict=True)):
        ratio = -0.5 * dt / float(steps[i - 1]) if scheduler.solver == "ab2" and i > 0 else 0.0
        table.append(SolverStep(time, 1.0, 0.0, 1.0, 1.0, dt * (1.0 - ratio), dt * ratio))
    return tuple(table)


def _noise_table(scheduler: NoiseScheduler, num_steps: int) -> SolverTable:
    """Times are spaced evenly from the last one on ("leading")."""
    spaces = num_steps + 1 if scheduler.solver == "dpmpp_2m" else num_steps
    stride = scheduler.num_train_steps // spaces
    if stride < 1:
        raise UsageError(f"steps: got {num_steps}, the model was trained with {scheduler.num_train_steps} noise levels")
    times = np.arange(spaces)[::-1][:num_steps] * stride + scheduler.steps_offset
    levels = _sigmas(scheduler)
    sigmas = np.append(levels[times], 0.0 if scheduler.final_sigma == "zero" else levels[0])
    if scheduler.solver == "euler":
        steps = [
            SolverStep(float(t), _alpha(s), 0.0, 1.0, 1.0, float(after - s), 0.0)
            for t, s, after in zip(times, sigmas[:-1], sigmas[1:], strict=True)
        ]
        return SolverTable(1.0 / _alpha(sigmas[0]), tuple(steps))
    if scheduler.solver == "ddim":
        steps = []
        for t, s, after in zip(times, sigmas[:-1], sigmas[1:], strict=True):
            a = _alpha(after) / _alpha(s)
            steps.append(SolverStep(float(t), 1.0, 0.0, 1.0, a, _alpha(after) * float(after - s), 0.0))
        return SolverTable(1.0, tuple(steps))
    return SolverTable(1.0, _multistep(times, sigmas))


def _multistep(times: NDArray[np.int64], sigmas: NDArray[np.float64]) -> tuple[SolverStep, ...]:
    """DPM-Solver++ 2M; the first step and the last one are of first order."""
    log_snr = [-float(np.log(s)) if s > 0 else np.inf for s in sigmas]
    steps = []
    for i, t in enumerate(times):
        now, after = sigmas[i], sigmas[i + 1]
        width = log_snr[i + 1] - log_snr[i]
        gain = _alpha(after) * -float(np.expm1(-width))
        ratio = 0.0
        if 0 < i < len(times) - 1:
            ratio = 0.5 * width / (log_snr[i] - log_snr[i - 1])
        a = _alpha(after) * float(after) / (_alpha(now) * float(now))
        steps.append(SolverStep(float(t), 1.0, 1.0 / _alpha(now), -float(now), a, gain * (1.0 + ratio), -gain * ratio))
    return tuple(steps)


def _sigmas(scheduler: NoiseScheduler) -> NDArray[np.float64]:
    """Noise level of every training time: sqrt((1 - A) / A) with A the product of 1 - beta; roots of beta are even."""
    roots = np.linspace(scheduler.beta_start**0.5, scheduler.beta_end**0.5, scheduler.num_train_steps)
    products = np.cumprod(1.0 - roots**2)
    sigmas: NDArray[np.float64] = np.sqrt((1.0 - products) / products)
    return sigmas


def _alpha(sigma: float) -> float:
    """1 / sqrt(1 + sigma^2)."""
    return float(1.0 / np.sqrt(1.0 + sigma * sigma))
