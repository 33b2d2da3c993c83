"""The kernels between two steps equal their definitions in numpy bit for bit."""

import numpy as np
import pytest
from addresses import address
from cpu_device import SCHEDULES
from sample_case import GROUP_GPU, stored

from illume_kernels import step_launch
from illume_kernels.flow import guided_step
from illume_kernels.launch import Gpu


def normal(seed, *shape, spread=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


# ---- guidance_step


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("is_guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize("solver", ["euler", "ddim", "dpm++2m", "any"])
def test_diffusion_steps_equal_the_definition(device, solver, is_guided, dtype):
    batch, n, stride = 3, 130, 150
    sides = 2 if is_guided else 1
    table = {
        "euler": [[0, 1, 1, -0.25, 0, 0.9], [0, 1, 1, -0.5, 0, 1], [0, 1, 1, -0.25, 0, 1]],
        "ddim": [[1.25, -0.75, 0.5, 0.5, 0, 1], [1.1, -0.3, 0.7, 0.3, 0, 1], [1, -0.1, 0, 1, 0, 1]],
        "dpm++2m": [[1.25, -0.75, 0.5, 0.5, 0, 1], [1.1, -0.3, 0.7, 0.45, -0.15, 0.8], [1, -0.1, 0, 1.1, -0.1, 1]],
        "any": [[0, 0.5, 1, 1, 0, 1], [0.5, 1, 1, 1, 0.25, 1], [0, 1, 2, 1, 0, 1]],
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


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_diffusion_step_of_more_elements_than_threads(device, schedule):
    one_processor = Gpu((8, 7), 1, 64 << 10)
    x, e = normal(1, 2, 1300), normal(2, 2, 1300)
    given, m_previous, model_input, state = x.copy(), np.zeros_like(x), np.zeros_like(x), np.zeros(2, np.uint32)
    table = np.array([[0.5, 2, 1.5, 0.25, 0, 3], [0, 1, 1, 1, 0, 1]], np.float32)
    launch = step_launch.guidance_step(
        one_processor,
        *(address(array) for array in (x, m_previous, e, model_input, table, state)),
        dtype="float32",
        batch=2,
        num_elements=1300,
        input_stride=1300,
        guidance=1.0,
        is_guided=False,
    )
    assert launch.grid[0] * launch.block < x.size
    device.run(launch, schedule)
    expected, previous = guided_step(given, e, None, 1.0, None, p=0.5, q=2, a=1.5, b=0.25)
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(m_previous, previous)
    np.testing.assert_array_equal(model_input, np.float32(3) * expected)
    assert state.tolist() == [1, 0]


NEIGHBOURS = {  # of the format, and which of the two has an even last bit
    "float16": [
        (1, 1 + 2**-10, "low"),
        (1 + 2**-10, 1 + 2**-9, "high"),
        (0, 2**-24, "low"),
        (2**-24, 2**-23, "high"),
        (65_504, 65_536, "high"),  # infinite
    ],
    "bfloat16": [
        (1, 1 + 2**-7, "low"),
        (1 + 2**-7, 1 + 2**-6, "high"),
        (2**-126, 2**-126 + 2**-133, "low"),
        (254 * 2.0**120, 255 * 2.0**120, "low"),
    ],
}


@pytest.mark.parametrize("dtype", NEIGHBOURS)
def test_the_input_of_a_diffusion_step_is_rounded_to_even(device, dtype):
    low, high, _ = (np.array(column) for column in zip(*NEIGHBOURS[dtype], strict=True))
    low, high = low.astype(np.float32), high.astype(np.float32)
    even = np.where([which == "low" for _, _, which in NEIGHBOURS[dtype]], low, high)
    half = low + (high - low) / 2
    values = np.concatenate([half, np.nextafter(half, low), np.nextafter(half, high)])
    rounded = np.concatenate([even, low, high])
    nan = np.array([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    values = np.concatenate([values, -values, np.float32([np.inf, -np.inf, 0]), nan])
    rounded = np.concatenate([rounded, -rounded, np.float32([np.inf, -np.inf, 0])])
    x, e = values[None].copy(), stored(np.zeros((1, len(values)), np.float32), dtype)[0]
    m_previous, model_input, state = np.zeros_like(x), np.zeros_like(e), np.zeros(2, np.uint32)
    table = np.array([[0, 1, 1, 1, 0, 1]], np.float32)
    launch = step_launch.guidance_step(
        GROUP_GPU,
        *(address(array) for array in (x, m_previous, e, model_input, table, state)),
        dtype=dtype,
        batch=1,
        num_elements=len(values),
        input_stride=len(values),
        guidance=1.0,
        is_guided=False,
    )
    device.run(launch)
    np.testing.assert_array_equal(model_input[0, : len(rounded)], stored(rounded, dtype)[0])
    of_nan = model_input[0, len(rounded) :]
    assert (np.isnan(of_nan) if dtype == "float16" else (of_nan & 0x7FFF) > 0x7F80).all()


# ---- gather_embedding


def moved(array, num_elements):
    """A copy that lies so many elements behind an address for loads of 16 bytes."""
    copy = np.zeros(array.size + num_elements, array.dtype)[num_elements:].reshape(array.shape)
    assert copy.ctypes.data % 16 == num_elements * array.itemsize % 16
    copy[:] = array
    return copy


@pytest.mark.parametrize(("table_at", "output_at"), [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("width", [1, 5, 16, 1024, 2048])
def test_gathered_embeddings(device, width, kind, table_at, output_at):
    scales = None
    if kind == "int8":
        table = np.random.default_rng(1).integers(-128, 128, (30, width), np.int8)
        scales = np.random.default_rng(2).uniform(1e-3, 1, 30).astype(np.float32)
        values = table.astype(np.float32) * scales[:, None]
    else:
        table, values = stored(normal(1, 30, width), kind)
    token = np.array([3, -1, 19, 20], np.int32)  # 10 + 20 lies outside the table
    appended = np.array([29, 30, -1, 0], np.int32)
    table, output = moved(table, table_at), moved(np.full((2, 4, 5, width), 9, np.float32), output_at)
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


@pytest.mark.parametrize(("rows", "num_new"), [(1, 1), (6, 4), (300, 2), (600, 1), (2, 0)])
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
