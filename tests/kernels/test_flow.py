import numpy as np
import pytest

from illume_kernels.flow import guided_step

SHAPE = (2, 3, 4, 5)


@pytest.fixture
def arrays():
    return np.random.default_rng(0).standard_normal((4, *SHAPE)).astype(np.float32)


def test_equal_to_the_formula_in_float64(arrays):
    x, cond, uncond, previous = arrays
    x_next, v = guided_step(x, cond, uncond, 2.5, previous, b=0.15, c=-0.05)
    wide = arrays.astype(np.float64)
    exact = wide[2] + 2.5 * (wide[1] - wide[2])
    assert x_next.dtype == v.dtype == np.float32
    # A dozen roundings of values below 20.
    assert np.abs(v - exact).max() < 1e-5
    assert np.abs(x_next - (wide[0] + 0.1 * (1.5 * exact - 0.5 * wide[3]))).max() < 1e-5


def test_without_guidance_and_previous_it_is_eulers_step(arrays):
    x, cond, uncond, previous = arrays
    x_next, v = guided_step(x, cond, None, 7.0, None, b=0.25)
    assert v.tobytes() == cond.tobytes()
    assert x_next.tobytes() == (x + np.float32(0.25) * cond).tobytes()
    assert guided_step(x, cond, uncond, 1.0, previous, b=0.25)[0] == pytest.approx(x_next, abs=1e-6)


def test_what_is_remembered_may_be_the_clean_picture(arrays):
    x, cond, _, previous = arrays
    x_next, m = guided_step(x, cond, None, 1.0, previous, p=1.25, q=-0.75, a=0.5, b=0.4, c=0.1)
    wide = arrays.astype(np.float64)
    clean = 1.25 * wide[0] - 0.75 * wide[1]
    assert np.abs(m - clean).max() < 1e-6
    assert np.abs(x_next - (0.5 * wide[0] + 0.4 * clean + 0.1 * wide[3])).max() < 1e-6


def test_guidance_0_is_the_unconditional_velocity(arrays):
    x, cond, uncond, _ = arrays
    assert guided_step(x, cond, uncond, 0.0, None, b=0.1)[1].tobytes() == uncond.tobytes()


def test_two_steps_solve_a_linear_field_to_second_order():
    # dx/dt = t from 0 to 1 gives 1/2; Adams-Bashforth 2 is exact but for its first Euler step: -dt^2 / 2.
    dt, x, previous = 0.1, np.zeros(1, np.float32), None
    for step in range(10):
        velocity = np.array([step * dt], np.float32)
        b, c = (dt, 0.0) if previous is None else (1.5 * dt, -0.5 * dt)
        x, previous = guided_step(x, velocity, None, 1.0, previous, b=b, c=c)
    assert x[0] == pytest.approx(0.5 - dt**2 / 2, abs=1e-6)
