"""Scales of channels beside the papers' formulas written out, and the choice beside trying everything."""

import numpy as np
import pytest

from illume_calibration.ranges import range_from_histogram
from illume_calibration.scaling import ALPHAS, best_divisors, divisors_of
from illume_calibration.statistics import TensorStatistics
from illume_calibration.weights import int4_in_groups, int8_per_channel

K = 32


@pytest.fixture
def seen():
    """What calibration keeps of inputs of which one channel is fifty times as large as the others."""
    rng = np.random.default_rng(3)
    inputs = rng.standard_normal((300, K)).astype(np.float32)
    inputs[:, 4] *= 50.0
    statistics = TensorStatistics(-1)
    statistics.add(inputs)
    return statistics


@pytest.fixture
def weights():
    rng = np.random.default_rng(4)
    return {name: rng.standard_normal((K, 9)).astype(np.float32) for name in "qk"}


def int8(weight):
    return int8_per_channel(weight, 1).dequantized()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("scaling", ["smoothquant", "awq"])
def test_divisors_follow_the_formula(seen, weights, scaling, alpha):
    rows = seen.sample.rows
    expected = []
    for c in range(K):
        if scaling == "smoothquant":
            largest = max(abs(float(value)) for weight in weights.values() for value in weight[c])
            expected.append(max(abs(rows[:, c])) ** alpha / largest ** (1.0 - alpha))
        else:
            expected.append(np.mean(np.abs(rows[:, c].astype(np.float64))) ** alpha)
    expected = np.array(expected) / np.sqrt(max(expected) * min(expected))
    assert divisors_of(scaling, alpha, seen, list(weights.values())) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scaling", ["smoothquant", "awq"])
@pytest.mark.parametrize("int8_inputs", ["", "q", "qk"])
def test_the_best_of_all_is_chosen(seen, weights, scaling, int8_inputs):
    def range_of(divisors):
        return range_from_histogram(seen.scaled_histogram(divisors), "minmax", 100.0)

    def error(divisors):
        found = 0.0
        rows = seen.sample.rows[:256]
        for name, weight in weights.items():
            x = rows / divisors
            if name in int8_inputs:
                step = np.float32(np.abs(seen.channels / divisors).max() / 127)
                x = np.clip(np.rint(x / step), -128, 127) * step
            expected = rows.astype(np.float64) @ weight
            noise = x @ int8(weight * divisors[:, None]) - expected
            found += np.square(noise).sum() / np.square(expected).sum()
        return found

    candidates = [divisors_of(scaling, alpha, seen, list(weights.values())) for alpha in ALPHAS]
    errors = [error(divisors) for divisors in candidates]
    chosen = best_divisors(scaling, seen, weights, int8, list(int8_inputs), range_of)
    if min(errors) >= error(np.ones(K, np.float32)):
        assert chosen is None
    else:
        assert np.array_equal(chosen, candidates[int(np.argmin(errors))])
    if int8_inputs:
        assert min(errors) < 0.1 * error(np.ones(K, np.float32))  # one large channel is what it is for


def test_weights_alone_in_groups_gain_too(seen, weights):
    def rounded(weight):
        return int4_in_groups(weight, 16).dequantized()

    assert best_divisors("awq", seen, weights, rounded, (), lambda divisors: 1.0) is not None


def test_what_is_exact_already_is_left_alone(seen):
    whole = np.random.default_rng(0).integers(-127, 128, (K, 5)).astype(np.float32)
    whole[0] = 127.0
    assert best_divisors("awq", seen, {"q": whole}, int8, (), lambda divisors: 1.0) is None


def test_a_channel_that_is_always_zero_stays_in_bounds(weights):
    statistics = TensorStatistics(-1)
    statistics.add(np.zeros((4, K), np.float32))
    divisors = divisors_of("smoothquant", 0.5, statistics, list(weights.values()))
    assert np.isfinite(divisors).all()
    assert (divisors > 0).all()
