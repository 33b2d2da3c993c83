"""Tables of the diffusion loop, in float64: everything about a step that does not depend on the picture.

A rectified flow (Liu et al., 2022) runs from time 1 (noise) to 0 (data) along dx/dt = velocity. `euler` is first
order; `ab2` is the second-order Adams-Bashforth method for steps of any length, whose first step is Euler's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from illume_runtime.errors import InvalidBundleError

SOLVERS = ("euler", "ab2")


@dataclass(frozen=True, slots=True)
class SolverStep:
    """x' = x + dt (c_cur v + c_prev v_prev), with v the velocity at `time`."""

    time: float
    dt: float
    c_cur: float
    c_prev: float


def solver_steps(solver: str, num_steps: int, shift: float) -> tuple[SolverStep, ...]:
    """The table of `num_steps` steps; `shift` s moves times by t -> s t / (1 + (s - 1) t) (Esser et al., 2024)."""
    if solver not in SOLVERS:
        raise InvalidBundleError(f"scheduler: got solver {solver!r}, expected one of {', '.join(SOLVERS)}")
    even = np.linspace(1.0, 0.0, num_steps + 1)
    times = shift * even / (1.0 + (shift - 1.0) * even)
    steps = np.diff(times)
    table = []
    for i, (time, dt) in enumerate(zip(times[:-1].tolist(), steps.tolist(), strict=True)):
        c_prev = -0.5 * dt / float(steps[i - 1]) if solver == "ab2" and i > 0 else 0.0
        table.append(SolverStep(time, dt, 1.0 - c_prev, c_prev))
    return tuple(table)
