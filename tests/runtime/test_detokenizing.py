"""From codes to pixels, against the same loop in PyTorch; the solver's tables against what they must integrate."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illume_kernels.philox import STREAM_NOISE, normal
from illume_runtime import detokenizing
from illume_runtime.bundle import Bundle
from illume_runtime.detokenizing import pixels_of_codes
from illume_runtime.errors import InvalidBundleError
from illume_runtime.manifest import Scheduler
from illume_runtime.pipeline import ImageSampling
from illume_runtime.schedule import schedule_from_grammar
from illume_runtime.solver import solver_table
from illume_runtime.stages import Stages
from illume_runtime.trace import NULL_TRACER

SAMPLING = ImageSampling(seed=8, steps=4, diffusion_guidance=1.0)


@pytest.fixture(scope="module")
def stages(bundle):
    return Stages(Bundle.open(bundle), "cpu", 1, NULL_TRACER)


def drawn_pixels(stages, *arguments, **options):
    schedule = schedule_from_grammar(stages.bundle.grammar, stages.bundle.vocabulary)
    return pixels_of_codes(stages, schedule, *arguments, **options)


def flow_steps(solver, steps, shift):
    return solver_table(Scheduler("flow", solver, (1, 1, 1), shift, 10, 100), steps).steps


def codes(count, seed=0):
    return [(grid,) for grid in np.random.default_rng(seed).integers(0, 36, (count, 3, 3))]


def slow_pixels(model, grid, request, guidance, steps):
    """One picture: Euler's first step, then Adams-Bashforth, two passes for guidance, all in float64."""
    with torch.no_grad():
        vectors = model.image_tokenizer.code_vectors()[torch.from_numpy(grid.ravel())]
        code_map = vectors.T.reshape(1, -1, 3, 3)
        x = torch.from_numpy(normal(8, request, STREAM_NOISE, (6, 6, 6)))[None].double()
        previous = None
        for k in range(steps):
            time = torch.tensor([1 - k / steps])
            cond, uncond = (model.denoiser(x.float(), time, c).double() for c in (code_map, 0 * code_map))
            v = uncond + guidance * (cond - uncond)
            x = x - (v if previous is None else 1.5 * v - 0.5 * previous) / steps
            previous = v
        return model.vae.decode(x.float()).clamp(-1, 1)[0].numpy()


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_pixels_are_those_of_the_slow_loop(stages, slow, guidance, steps):
    sampling = dataclasses.replace(SAMPLING, diffusion_guidance=guidance, steps=steps)
    drawn = codes(2)
    pixels = drawn_pixels(stages, drawn, [0, 5], sampling)
    for got, (grid,), request in zip(pixels, drawn, [0, 5], strict=True):
        expected = slow_pixels(slow.model, grid, request, guidance, steps)
        assert np.abs(got - expected).max() < 1e-4  # float32, four steps of guidance 3


def test_a_picture_does_not_depend_on_its_batch(stages, monkeypatch):
    drawn = codes(5)
    together = drawn_pixels(stages, drawn, list(range(5)), SAMPLING)
    alone = [drawn_pixels(stages, [one], [i], SAMPLING)[0] for i, one in enumerate(drawn)]
    np.testing.assert_allclose(together, alone, atol=2e-5)  # float32, another order of sums
    monkeypatch.setattr(detokenizing, "PIXELS_AT_ONCE", 2 * 96 * 96)
    np.testing.assert_allclose(drawn_pixels(stages, drawn, list(range(5)), SAMPLING), together, atol=2e-5)


def test_noise_is_that_of_seed_and_number(stages):
    (one,) = codes(1)
    first, second = (drawn_pixels(stages, [one], [request], SAMPLING) for request in (0, 1))
    other_seed = drawn_pixels(stages, [one], [0], dataclasses.replace(SAMPLING, seed=9))
    assert np.abs(first - second).max() > 0.01
    assert np.abs(first - other_seed).max() > 0.01
    np.testing.assert_array_equal(first, drawn_pixels(stages, [one], [0], SAMPLING))


def test_without_steps_the_scheduler_s_default_is_taken(stages):
    events = []
    drawn_pixels(
        stages, codes(1), [0], dataclasses.replace(SAMPLING, steps=None), on_progress=lambda e: events.append(e.phase)
    )
    assert events == ["diffusion"] * 10 + ["pixels"]


@settings(max_examples=100)
@given(solver=st.sampled_from(["euler", "ab2"]), steps=st.integers(1, 60), shift=st.floats(0.2, 8.0))
def test_steps_run_from_noise_to_data_and_integrate_a_constant(solver, steps, shift):
    table = flow_steps(solver, steps, shift)
    widths = [step.b + step.c for step in table]
    assert len(table) == steps
    assert table[0].time == pytest.approx(1.0)
    assert sum(widths) == pytest.approx(-1.0)
    assert max(widths) < 0
    for step, width, following in zip(table, widths, table[1:], strict=False):
        assert following.time == pytest.approx(step.time + width)


@settings(max_examples=50)
@given(steps=st.integers(2, 40), shift=st.floats(0.2, 8.0))
def test_the_second_order_solver_integrates_a_linear_velocity(steps, shift):
    """dx/dt = 2 t + 3 has x(0) - x(1) = -4 exactly, but for the first step, which is Euler's."""
    x, previous = 0.0, 0.0
    table = flow_steps("ab2", steps, shift)
    for step in table:
        velocity = 2 * step.time + 3
        x += step.b * velocity + step.c * previous
        previous = velocity
    euler_error = -(table[0].b ** 2)  # of the first step: dt^2 / 2 times the slope of 2, downwards in time
    assert x + 4 == pytest.approx(euler_error, abs=1e-9)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_times_are_moved_by_the_shift(shift):
    even = [1 - k / 7 for k in range(7)]
    times = [step.time for step in flow_steps("euler", 7, shift)]
    assert times == pytest.approx([shift * t / (1 + (shift - 1) * t) for t in even])


def test_an_unknown_solver_is_named():
    with pytest.raises(InvalidBundleError, match="scheduler: got solver 'heun', expected one of euler, ab2"):
        flow_steps("heun", 3, 1.0)
