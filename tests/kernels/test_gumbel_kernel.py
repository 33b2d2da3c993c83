"""`sample_gumbel` equals its definition in numpy bit for bit."""

import numpy as np
import pytest
from addresses import address
from cpu_device import SCHEDULES
from sample_case import GROUP_GPU, key_of, stored

from illume_kernels import gumbel, sample_plan
from illume_kernels.guidance import guided
from illume_kernels.gumbel import gumbel_noise, sample_gumbel
from illume_kernels.launch import Segment
from illume_kernels.oracle import repetition_penalty
from illume_kernels.params import SampleParams
from illume_kernels.rows import bits_of_tokens, rows_from_params


def normal(seed, *shape, spread=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


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


@pytest.mark.parametrize("n", [40, 9001, 12_345])
def test_gumbel_with_forced_banned_and_penalized_tokens(device, n):
    """The most likely tokens were seen: without the penalty others would be drawn. Several CTAs share a long row."""
    batch, penalty = 4, 1.7
    cond, uncond = normal(n, batch, n, spread=3.0), normal(n + 1, batch, n)
    logits = np.concatenate([cond, uncond])
    seen = [np.argsort(-row)[: n // 4].tolist() for row in cond]
    seen[2] = []
    banned = [0, n - 1, *range(5, n, 7)]
    params = SampleParams.broadcast(batch, temperature=[0.8, 1.0, 0.5, 0.0], request=range(batch), step=[3, 1, 4, 1])
    ids = np.array([row or [-1] * (n // 4) for row in seen], np.int64)
    scores = guided(repetition_penalty(cond, ids, penalty), uncond, 1.5)
    scores[:, banned] = -np.inf
    tokens = sample_gumbel(scores, params)
    tokens[1] = 77
    rows = rows_from_params(
        params, guidance=1.5, penalty=penalty, uncond_row=range(batch, 2 * batch), forced=[-1, 77, -1, -1]
    )
    step, token, workspace = params.step.copy(), np.full(batch, -9, np.int32), np.zeros((batch, 2), np.uint64)
    seen_bits, banned_bits = np.stack([bits_of_tokens(row, n) for row in seen]), bits_of_tokens(banned, n)
    expected_bits = seen_bits.copy()
    for row in range(batch):
        expected_bits[row] |= bits_of_tokens([tokens[row]], n)
    launch = sample_plan.sample_gumbel(
        GROUP_GPU,
        batch,
        Segment(address(logits), "float32", n, 0, n),
        *(address(array) for array in (rows, step, token, workspace)),
        seen=address(seen_bits),
        banned=address(banned_bits),
    )
    device.run(launch)
    np.testing.assert_array_equal(token, tokens)
    np.testing.assert_array_equal(step, params.step + 1)
    np.testing.assert_array_equal(seen_bits, expected_bits)
    assert not workspace.any()


def test_gumbel_without_a_legal_token_gives_minus_one(device):
    logits = np.zeros((3, 40), np.float32)
    logits[0], logits[1] = np.nan, -np.inf
    tokens = gumbel_tokens(device, GROUP_GPU, logits, SampleParams.broadcast(3))
    assert tokens[:2].tolist() == [-1, -1]
    assert tokens[2] >= 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_of_gumbel_tokens_that_tie_the_first_is_taken(device, schedule):
    """Within a lane, a warp, a CTA and beyond: at temperature 0, and where logits are infinite."""
    logits = np.full((4, 9000), -3, np.float32)
    logits[0, [40, 41, 8000]] = 2
    logits[1, [2000, 3500]] = 2
    logits[2, [4500, 8999]] = np.inf
    params = SampleParams.broadcast(4, temperature=[0.0, 0.0, 1.0, 0.0])
    assert gumbel_tokens(device, GROUP_GPU, logits, params, schedule).tolist() == [40, 2000, 4500, 0]


def gumbel_tokens(device, gpu, logits, params, schedule="forward"):
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
    logits, seed, request, step = normal(8, 7, 9000), np.arange(7) + (3 << 40), np.arange(7)[::-1] * 5, np.arange(7) * 3
    tokens = sample_gumbel(logits, SampleParams.broadcast(7, temperature=1.1, seed=seed, request=request, step=step))
    assert len(set(tokens.tolist())) > 3
    for first in range(7):
        some = (first + np.arange(batch)) % 7
        params = SampleParams.broadcast(batch, temperature=1.1, seed=seed[some], request=request[some], step=step[some])
        got = gumbel_tokens(device, GROUP_GPU, logits[some], params)
        np.testing.assert_array_equal(got, tokens[some])
        np.testing.assert_array_equal(got, sample_gumbel(logits[some], params))


TERMS = [(series, term) for series in ("_LOG1P", "_ATANH") for term in range(len(getattr(gumbel, series)))]


@pytest.mark.parametrize(("series", "term"), [*TERMS, ("smallest", 0), ("largest", 0)])
def test_the_noise_of_a_gumbel_token_is_exact_to_its_last_bit(device, series, term, monkeypatch):
    """The second of two tokens has the least logit with which it is the larger, or the last with which it is not.

    In rows where another coefficient of that term would give other noise, or with the smallest or largest of numbers.
    """
    params = SampleParams.broadcast(200_000, seed=11, request=range(200_000), step=3)
    numbers = gumbel._numbers(params, 2)
    if series in ("smallest", "largest"):
        is_chosen = (numbers if series == "smallest" else ~numbers) < 1 << 52
    else:
        noise = gumbel_noise(numbers)
        coefficients = list(getattr(gumbel, series))
        coefficients[term] *= np.float32(0.875)
        with monkeypatch.context() as changed:
            changed.setattr(gumbel, series, coefficients)
            is_chosen = gumbel_noise(numbers) != noise
    chosen = np.flatnonzero(is_chosen.any(axis=1))[:48]
    assert len(chosen) > 4
    batch, params = len(chosen), SampleParams.broadcast(len(chosen), seed=11, request=chosen, step=3)
    first, second = gumbel_noise(numbers[chosen]).T
    last, least = key_of(np.full(batch, -50)).astype(np.int64), key_of(np.full(batch, 50)).astype(np.int64)
    while (least - last > 1).any():
        middle = (last + least) // 2
        is_larger = score_of(middle) + second > first
        last, least = np.where(is_larger, last, middle), np.where(is_larger, middle, least)
    for key, token in ((least, 1), (last, 0)):
        logits = np.stack([np.zeros(batch, np.float32), score_of(key)], axis=1)
        assert (gumbel_tokens(device, GROUP_GPU, logits, params) == token).all()


def score_of(key):
    """What key_of takes to that key."""
    key = key.astype(np.uint32)
    return np.where(key >> 31, key & 0x7FFFFFFF, ~key).view(np.float32)


def test_gumbel_noise_is_accurate_to_its_last_digits():
    numbers = np.concatenate(
        [np.random.default_rng(1).integers(0, 1 << 63, 20_000, np.uint64) << 1, 2 ** np.arange(64, dtype=np.uint64)]
    )
    t = (numbers >> np.uint64(1) | np.uint64(1)).astype(np.longdouble) / np.longdouble(2.0) ** 63
    exact = -np.log(-np.log1p(-t))
    error = np.abs(gumbel_noise(numbers) - exact)
    assert (error <= 5e-7 * np.maximum(1, np.abs(exact))).all()  # four roundings of float32
