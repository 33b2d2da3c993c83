"""The kernels around `sample`, run on the CPU, equal their definitions in numpy bit for bit."""

import numpy as np
import pytest
from addresses import address
from cpu_device import SCHEDULES
from sample_case import GROUP_GPU, stored

from illume_kernels import sample_plan, step_launch
from illume_kernels.flow import guided_step
from illume_kernels.guidance import guided
from illume_kernels.gumbel import gumbel_noise, sample_gumbel
from illume_kernels.head import head_logits
from illume_kernels.launch import Segment
from illume_kernels.params import SampleParams
from illume_kernels.rows import bits_of_tokens, rows_from_params


def normal(seed, *shape, spread=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


# ---- sample_gumbel


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [1, 2, 33, 9000])
def test_gumbel_tokens_equal_the_definition(device, n, dtype, schedule):
    batch = 4
    logits, values = stored(normal(n, 2 * batch, n), dtype)
    logits[1], values[1] = logits.dtype.type(0), 0
    if n > 2:
        values[2, :2], nan = np.nan, stored(np.float32([np.nan]), dtype)[0]
        logits[2, :2] = nan
    params = SampleParams.broadcast(batch, temperature=[0.8, 1.0, 2.0, 0.0], seed=5 << 33, request=range(batch), step=2)
    rows = rows_from_params(params, guidance=1.5, uncond_row=range(batch, 2 * batch))
    step, token, workspace = params.step.copy(), np.full(batch, -9, np.int32), np.zeros((batch, 2), np.uint64)
    launch = sample_plan.sample_gumbel(
        GROUP_GPU,
        batch,
        Segment(address(logits), dtype, n, 0, n),
        address(rows),
        address(step),
        address(token),
        address(workspace),
    )
    scores = guided(values[:batch], values[batch:], 1.5)
    for k in range(2):
        device.run(launch, schedule)
        np.testing.assert_array_equal(token, sample_gumbel(scores, params.at_step(2 + k)))
    assert not workspace.any()
    assert (step == 4).all()


def test_gumbel_without_a_legal_token_and_with_forced_banned_and_seen_ones(device):
    n = 40
    logits = np.zeros((4, n), np.float32)
    logits[0] = np.nan
    logits[3, 7] = 50
    seen = np.stack([bits_of_tokens([7] if row == 3 else [], n) for row in range(4)])
    banned = bits_of_tokens(range(1, n - 1), n)
    params = SampleParams.broadcast(4, request=range(4))
    for ban in (0, address(banned)):
        rows = rows_from_params(params, penalty=1e9, forced=[-1, 77, -1, -1])
        step, token, workspace = params.step.copy(), np.full(4, -9, np.int32), np.zeros((4, 2), np.uint64)
        device.run(
            sample_plan.sample_gumbel(
                GROUP_GPU,
                4,
                Segment(address(logits), "float32", n, 0, n),
                address(rows),
                address(step),
                address(token),
                address(workspace),
                seen=address(seen),
                banned=ban,
            )
        )
        assert token[0] == -1
        assert token[1] == 77
        assert token[2] in ((0, n - 1) if ban else range(n))
        assert seen[3, token[3] // 32] >> (token[3] % 32) & 1
    assert (step == 1).all()


def gumbel_tokens(device, gpu, logits, params):
    batch, n = logits.shape
    rows = rows_from_params(params)
    step, token, workspace = params.step.copy(), np.full(batch, -9, np.int32), np.zeros((batch, 2), np.uint64)
    segment = Segment(address(logits), "float32", n, 0, n)
    device.run(
        sample_plan.sample_gumbel(gpu, batch, segment, address(rows), address(step), address(token), address(workspace))
    )
    return token


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_a_gumbel_token_depends_on_neither_batch_row_nor_batch_size(device, batch):
    """Nor on the grid: one row alone is shared out among more CTAs."""
    logits, seed, request = normal(8, 7, 9000), np.arange(7) + (3 << 40), np.arange(7)[::-1] * 5
    tokens = sample_gumbel(logits, SampleParams.broadcast(7, temperature=1.1, seed=seed, request=request, step=4))
    assert len(set(tokens.tolist())) > 3
    for first in range(7):
        some = (first + np.arange(batch)) % 7
        params = SampleParams.broadcast(batch, temperature=1.1, seed=seed[some], request=request[some], step=4)
        got = gumbel_tokens(device, GROUP_GPU, logits[some], params)
        np.testing.assert_array_equal(got, tokens[some])
        np.testing.assert_array_equal(got, sample_gumbel(logits[some], params))


def test_gumbel_noise_is_accurate_to_its_last_digits():
    numbers = np.concatenate(
        [np.random.default_rng(1).integers(0, 1 << 63, 20_000, np.uint64) << 1, 2 ** np.arange(64, dtype=np.uint64)]
    )
    t = (numbers >> np.uint64(1) | np.uint64(1)).astype(np.longdouble) / np.longdouble(2.0) ** 63
    exact = -np.log(-np.log1p(-t))
    error = np.abs(gumbel_noise(numbers) - exact)
    assert (error <= 5e-7 * np.maximum(1, np.abs(exact))).all()  # four roundings of float32


# ---- guidance_step


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("is_guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize("solver", ["euler", "ddim", "dpm++2m"])
def test_diffusion_steps_equal_the_definition(device, solver, is_guided, dtype):
    batch, n, stride = 3, 130, 150
    sides = 2 if is_guided else 1
    table = {
        "euler": [[0, 1, 1, -0.25, 0, 0.9], [0, 1, 1, -0.5, 0, 1], [0, 1, 1, -0.25, 0, 1]],
        "ddim": [[1.25, -0.75, 0.5, 0.5, 0, 1], [1.1, -0.3, 0.7, 0.3, 0, 1], [1, -0.1, 0, 1, 0, 1]],
        "dpm++2m": [[1.25, -0.75, 0.5, 0.5, 0, 1], [1.1, -0.3, 0.7, 0.45, -0.15, 0.8], [1, -0.1, 0, 1.1, -0.1, 1]],
    }[solver]
    table = np.array(table, np.float32)
    x = normal(1, batch, n)
    m_previous = np.full((batch, n), np.nan, np.float32)
    state = np.zeros(2, np.uint32)
    given = x.copy()
    previous = None
    model_input = stored(np.full((sides * batch, stride), 7, np.float32), dtype)[0]
    for k, (p, q, a, b, c, scale) in enumerate(table.tolist()):
        e, values = stored(normal(k + 5, sides * batch, n), dtype)
        launch = step_launch.guidance_step(
            GROUP_GPU,
            *(address(array) for array in (x, m_previous, e, model_input, table, state)),
            dtype=dtype,
            batch=batch,
            num_elements=n,
            input_stride=stride,
            guidance=2.5,
            is_guided=is_guided,
        )
        device.run(launch, SCHEDULES[k])
        uncond = values[batch:] if is_guided else None
        given, previous = guided_step(given, values[:batch], uncond, 2.5, previous, p=p, q=q, a=a, b=b, c=c)
        np.testing.assert_array_equal(x, given)
        np.testing.assert_array_equal(m_previous, previous)
        expected = stored(np.float32(scale) * given, dtype)[0]
        for side in range(sides):
            np.testing.assert_array_equal(model_input[side * batch : (side + 1) * batch, :n], expected)
        np.testing.assert_array_equal(model_input[:, n:], stored(np.float32([7]), dtype)[0][0])
    assert state.tolist() == [3, 0]


# ---- gather_embedding


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("width", [1, 5, 16, 1024])
def test_gathered_embeddings(device, width, kind):
    scales = None
    if kind == "int8":
        table = np.random.default_rng(1).integers(-128, 128, (30, width), np.int8)
        scales = np.random.default_rng(2).uniform(1e-3, 1, 30).astype(np.float32)
        values = table.astype(np.float32) * scales[:, None]
    else:
        table, values = stored(normal(1, 30, width), kind)
    token = np.array([3, -1, 19, 20], np.int32)  # 10 + 20 lies outside the table
    appended = np.array([29, 30, -1, 0], np.int32)
    output = np.full((2, 4, 5, width), 9, np.float32)
    launch = step_launch.gather_embedding(
        *(address(array) for array in (table, token, appended, output)),
        num_ids=30,
        width=width,
        start=10,
        batch=4,
        num_appended=4,
        sides=2,
        kind=kind,
        scales=0 if scales is None else address(scales),
    )
    device.run(launch)
    zero = np.zeros(width, np.float32)
    tail = [values[29], zero, zero, values[0]]
    expected = np.stack([np.stack([head, *tail]) for head in (values[13], zero, values[29], zero)])
    np.testing.assert_array_equal(output, np.stack([expected, expected]))


# ---- advance_step


@pytest.mark.parametrize(("rows", "num_new"), [(1, 1), (6, 4), (300, 2), (2, 0)])
def test_tokens_go_around_the_ring_and_positions_go_on(device, rows, num_new):
    batch, num_slots = rows // 2 + 1, 3
    token = np.arange(batch, dtype=np.int32)
    ring, count = np.full((num_slots, batch), -9, np.int32), np.zeros(1, np.uint32)
    length = np.random.default_rng(0).integers(0, 1 << 40, rows)
    positions = np.full((rows, num_new), -9, np.int64)
    launch = step_launch.advance_step(
        *(address(array) for array in (token, ring, count, length, positions)),
        batch=batch,
        num_slots=num_slots,
        rows=rows,
        num_new=num_new,
    )
    for k in range(4):
        before = length.copy()
        device.run(launch, SCHEDULES[k])
        np.testing.assert_array_equal(ring[k % num_slots], token)
        np.testing.assert_array_equal(positions, before[:, None] + np.arange(num_new))
        np.testing.assert_array_equal(length, before + num_new)
        token += 1
    assert count[0] == 4


# ---- head_gemv


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
    vocabulary, start = 60, 8
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
