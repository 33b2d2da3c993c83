"""GPTQ beside its definition: after each row, the best change of the rows that are left, by the inverse of their H."""

import numpy as np
import pytest

from illume_calibration.error_feedback import damped_second_moments, int4_by_error_feedback, int8_by_error_feedback
from illume_calibration.weights import int4_in_groups, int4_scales, int8_per_channel, int8_scales

RNG = np.random.default_rng(5)


def correlated(rows, width):
    """Inputs that share a few directions, as activations do."""
    inputs = RNG.standard_normal((rows, 6)) @ RNG.standard_normal((6, width))
    return (inputs + 0.1 * RNG.standard_normal((rows, width))).astype(np.float32)


def oracle(weight, inputs, levels, group_size):
    moments = damped_second_moments(inputs)
    left = weight.astype(np.float64)
    integers = np.zeros(weight.shape, np.int8)
    scales = int8_scales(weight, 1)
    for i in range(len(weight)):
        if group_size and i % group_size == 0:
            scales = int4_scales(left[None, i : i + group_size].astype(np.float32))[0, 0]
        integers[i] = np.clip(np.rint(left[i] / scales), -levels, levels)
        error = left[i] - integers[i] * scales.astype(np.float64)
        inverse = np.linalg.inv(moments[i:, i:])
        left[i + 1 :] -= np.outer(inverse[1:, 0] / inverse[0, 0], error)
    return integers


@pytest.mark.parametrize("K", [16, 48, 160])  # within a block, and over two
def test_int4_equals_the_definition(K):
    weight, inputs = RNG.standard_normal((K, 7)).astype(np.float32), correlated(200, K)
    made = int4_by_error_feedback(weight, inputs, 16)
    assert np.array_equal(made.integers, oracle(weight, inputs, 7, 16))
    assert made.scales.shape == (K // 16, 7)


@pytest.mark.parametrize("K", [5, 130])
def test_int8_equals_the_definition(K):
    weight, inputs = RNG.standard_normal((K, 7)).astype(np.float32), correlated(200, K)
    made = int8_by_error_feedback(weight, inputs)
    assert np.array_equal(made.integers, oracle(weight, inputs, 127, 0))
    assert np.array_equal(made.scales, int8_per_channel(weight, 1).scales)


@pytest.mark.parametrize("bits", [4, 8])
def test_products_of_such_inputs_are_nearer_than_with_plain_rounding(bits):
    weight, inputs, others = RNG.standard_normal((64, 20)).astype(np.float32), *np.split(correlated(600, 64), 2)
    made = {
        4: lambda: (int4_in_groups(weight, 32), int4_by_error_feedback(weight, inputs, 32)),
        8: lambda: (int8_per_channel(weight, 1), int8_by_error_feedback(weight, inputs)),
    }[bits]()
    plain, fed_back = (np.square(others @ (how.dequantized() - weight)).sum() for how in made)
    assert fed_back < 0.5 * plain


def test_an_input_that_is_always_zero_is_rounded_by_itself():
    weight, inputs = RNG.standard_normal((32, 4)).astype(np.float32), correlated(50, 32)
    inputs[:, 31] = 0.0
    made = int8_by_error_feedback(weight, inputs)
    assert np.array_equal(made.integers[31], int8_per_channel(weight, 1).integers[31])
    assert np.array_equal(
        int8_by_error_feedback(weight, np.zeros_like(inputs)).integers, int8_per_channel(weight, 1).integers
    )


def test_groups_must_divide_the_rows():
    with pytest.raises(ValueError, match="48 rows, no multiple of the group size 32"):
        int4_by_error_feedback(np.ones((48, 4), np.float32), np.ones((9, 48), np.float32), 32)
