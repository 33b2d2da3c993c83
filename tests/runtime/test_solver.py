"""Solver tables, step by step, against trajectories that the schedulers of diffusers 0.31 made in float64."""

import json
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from illume_kernels.flow import guided_step
from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.manifest import NoiseScheduler, Scheduler
from illume_runtime.solver import SolverStep, solver_table

TRAJECTORIES = json.loads((Path(__file__).parents[1] / "data" / "illume_plus" / "schedulers.json").read_text())
NOISE = NoiseScheduler(1000, 0.00085, 0.012, 1, "euler", 4, 4, {}, 20, 100)
FLOW = Scheduler("flow", "ab2", (1, 1, 1), 1.0, 10, 100)
START = np.array([-1.5, 0.25, 2.0])


def model(x, time):
    """What predicted the noise when the trajectories were made."""
    return np.sin(2 * x + time / 300) + 0.5 * x


def final_sigma(trajectory):
    """`first`: of schedulers with set_alpha_to_one=False (DDIM) or final_sigmas_type="sigma_min" (Euler)."""
    return trajectory.get("final_sigma", "zero")


@pytest.mark.parametrize("expected", TRAJECTORIES, ids=lambda t: f"{t['solver']}-{t['steps']}-{final_sigma(t)}")
def test_every_step_is_that_of_diffusers(expected):
    scheduler = replace(NOISE, solver=expected["solver"], final_sigma=final_sigma(expected))
    table = solver_table(scheduler, expected["steps"])
    # Its tables of noise levels are in float32.
    assert table.initial == pytest.approx(expected["init"], rel=1e-5)
    assert [step.time for step in table.steps] == expected["times"]
    x, previous = table.initial * START, 0.0
    for step, given, after in zip(table.steps, expected["inputs"], expected["states"], strict=True):
        assert step.scale * x == pytest.approx(np.array(given), rel=2e-5, abs=2e-5)
        remembered = step.p * x + step.q * model(step.scale * x, step.time)
        x = step.a * x + step.b * remembered + step.c * previous
        previous = remembered
        assert x == pytest.approx(np.array(after), rel=2e-5, abs=2e-5)


@pytest.mark.parametrize("solver", ["euler", "ddim", "dpmpp_2m"])
def test_the_kernel_takes_the_table(solver):
    table = solver_table(replace(NOISE, solver=solver), 7)
    expected = next(t for t in TRAJECTORIES if t["solver"] == solver and t["steps"] == 7)
    x, previous = np.float32(table.initial * START), None
    for step in table.steps:
        noise = np.float32(model(step.scale * x, step.time))
        x, previous = guided_step(x, noise, None, 1.0, previous, p=step.p, q=step.q, a=step.a, b=step.b, c=step.c)
    assert x == pytest.approx(np.array(expected["states"][-1]), abs=2e-4)  # float32, sigma from 6.6 on


def test_ddim_is_euler_in_other_coordinates():
    """With x = alpha (x0 + sigma e), both are the same method."""
    euler, ddim = (solver_table(replace(NOISE, solver=solver), 9) for solver in ("euler", "ddim"))
    x, y = euler.initial * START, ddim.initial * START
    for one, other in zip(euler.steps, ddim.steps, strict=True):
        assert one.scale * x == pytest.approx(y, rel=1e-12)
        noise = model(y, one.time)
        x, y = x + one.b * noise, other.a * y + other.b * noise
    assert x == pytest.approx(y, rel=1e-12)


def test_flow_tables_are_those_of_adams_and_bashforth():
    euler = solver_table(replace(FLOW, solver="euler"), 4)
    assert euler.initial == 1.0
    assert [astuple(step) for step in euler.steps] == [(t, 1, 0, 1, 1, -0.25, 0) for t in (1, 0.75, 0.5, 0.25)]
    steps = solver_table(FLOW, 4).steps
    assert steps[0] == SolverStep(1.0, 1.0, 0.0, 1.0, 1.0, -0.25, 0.0)
    assert [(step.b, step.c) for step in steps[1:]] == [(-0.375, 0.125)] * 3
    assert solver_table(replace(FLOW, shift=3.0), 2).steps[1].time == 0.75


def test_bad_solvers_and_numbers_of_steps():
    with pytest.raises(InvalidBundleError, match="got solver 'heun', expected one of euler, ab2"):
        solver_table(replace(FLOW, solver="heun"), 4)
    with pytest.raises(InvalidBundleError, match="got solver 'ab2', expected one of euler, ddim, dpmpp_2m"):
        solver_table(replace(NOISE, solver="ab2"), 4)
    with pytest.raises(UsageError, match="steps: got 1001, the model was trained with 1000 noise levels"):
        solver_table(NOISE, 1001)
