"""`head_gemv` equals its definition in numpy bit for bit."""

import numpy as np
import pytest
from addresses import address
from guarded import at_the_end
from sample_case import stored

from illume_kernels import step_launch
from illume_kernels.head import head_logits


def normal(seed, *shape, spread=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


HEADS = [
    pytest.param("float16", 8, 41, 328, id="float16"),
    pytest.param("bfloat16", 8, 41, 328, id="bfloat16"),
    pytest.param("int8", 8, 41, 328, id="int8"),
    pytest.param("int4", 8, 41, 328, id="int4"),
    pytest.param("int4", 128, 9, 2048, id="int4 as a model has it"),
]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("kind", "group", "n", "width"), HEADS)
@pytest.mark.parametrize(("num_rows", "is_guided"), [(1, 0), (2, 1), (3, 0), (8, 1), (16, 1), (9, 0)])
def test_head_logits_equal_the_definition(device, kind, group, n, width, num_rows, is_guided, dtype):
    vocabulary, start = 7 + n, 7  # the segment ends where the table does
    hidden, hidden_values = stored(normal(1, num_rows, width), dtype)
    scales, token_scales, group_scales = np.zeros(1, np.float32), None, None
    if kind in ("float16", "bfloat16"):
        weights, values = stored(normal(2, vocabulary, width), kind)
    elif kind == "int8":
        weights = np.random.default_rng(2).integers(-127, 128, (vocabulary, width)).astype(np.int8)
        values, scales = weights.astype(np.float32), np.abs(normal(3, vocabulary))
        token_scales = scales[start : start + n]
    else:
        codes = np.random.default_rng(2).integers(0, 16, (vocabulary, width)).astype(np.uint8)
        weights, values = codes[:, ::2] | codes[:, 1::2] << 4, codes.astype(np.float32) - 8
        scales = np.abs(normal(3, vocabulary, width // group))
        group_scales = scales[start : start + n]
    weights, scales, hidden = (at_the_end(array) for array in (weights, scales, hidden))
    guidance = 3.0 if is_guided else None
    num_out = num_rows // 2 if is_guided else num_rows
    logits = np.full((num_out + 1, n), 77, np.float32)
    launch = step_launch.head_gemv(
        *(address(array) for array in (weights, scales, hidden, logits)),
        kind=kind,
        group=group,
        hidden_size=width,
        dtype=dtype,
        num_rows=num_rows,
        vocabulary=vocabulary,
        start=start,
        num_tokens=n,
        guidance=guidance,
    )
    device.run(launch)
    expected = head_logits(
        values[start : start + n],
        hidden_values,
        token_scales=token_scales,
        group_scales=group_scales,
        guidance=guidance,
    )
    np.testing.assert_array_equal(logits[:num_out], expected)
    assert (logits[num_out] == 77).all()
    scale = 1 if token_scales is None else token_scales
    if group_scales is not None:
        values = values.copy()
        values[start : start + n] *= np.repeat(group_scales, group, axis=1)
    exact = hidden_values.astype(np.float64) @ values[start : start + n].astype(np.float64).T * scale
    if is_guided:
        exact = exact[num_out:] + 3.0 * (exact[:num_out] - exact[num_out:])
    np.testing.assert_allclose(expected, exact, atol=1e-5 * np.abs(exact).max())  # of sums in float32
