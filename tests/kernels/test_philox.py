import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illume_kernels.philox import STREAM_NOISE, STREAM_TOKENS, normal, philox, philox_words, uniform_u64

ONES = 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
# The vectors published with the algorithm (Random123, kat_vectors, philox4x32 10): counter, key, result.
KNOWN = [
    pytest.param((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8), id="zeros"),
    pytest.param((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD), id="ones"),
    pytest.param(PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1), id="pi"),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    assert philox_words(counter, key) == expected
    assert tuple(philox(np.array(counter, np.uint64), np.array(key, np.uint64)).tolist()) == expected


@given(st.tuples(*[st.integers(0, ONES)] * 4), st.tuples(*[st.integers(0, ONES)] * 2))
def test_array_and_scalar_forms_agree(counter, key):
    words = philox(np.array(counter, np.uint64)[:, None], np.array(key, np.uint64)[:, None])
    assert tuple(words[:, 0].tolist()) == philox_words(counter, key)


@pytest.mark.parametrize("batch", [1, 7, 8, 9, 100], ids=lambda b: f"B{b}")
def test_uniform_does_not_depend_on_the_batch(batch):
    rng = np.random.default_rng(batch)
    seed = rng.integers(0, 1 << 64, batch, dtype=np.uint64)
    request, step = rng.integers(0, 1 << 32, (2, batch), dtype=np.uint32)
    together = uniform_u64(seed, request, step, STREAM_TOKENS)
    alone = [uniform_u64(seed[i : i + 1], request[i : i + 1], step[i : i + 1], STREAM_TOKENS)[0] for i in range(batch)]
    assert together.dtype == np.uint64
    assert together.tolist() == alone


def test_uniform_joins_word_0_as_the_low_half():
    zero = np.zeros(1, np.uint64)
    assert uniform_u64(zero, zero, zero, 0).tolist() == [0xE169C58D6627E8D5]


def test_uniform_broadcasts():
    grid = uniform_u64(7, np.arange(3)[:, None], np.arange(4)[None], STREAM_TOKENS)
    assert grid.shape == (3, 4)
    assert len(set(grid.ravel().tolist())) == 12
    assert grid[2, 3] == uniform_u64([7], [2], [3], STREAM_TOKENS)[0]


@pytest.mark.parametrize("changed", ["seed", "high half of seed", "request", "step", "stream"])
def test_every_word_matters(changed):
    word = {"seed": 1, "request": 2, "step": 3, "stream": 4}
    other = dict(word)
    if changed == "high half of seed":
        other["seed"] += 1 << 32
    else:
        other[changed] += 1
    first, second = (
        uniform_u64(np.array([w["seed"]], np.uint64), [w["request"]], [w["step"]], w["stream"]) for w in (word, other)
    )
    assert first != second


def test_normal_has_the_moments_of_a_normal():
    # 2^20 numbers: standard errors 0.001 (mean), 0.0007 (deviation), 0.01 (fourth moment); the bounds are five of them.
    x = normal(3, 1, STREAM_NOISE, (1024, 1024)).astype(np.float64)
    assert abs(x.mean()) < 0.005
    assert abs(x.std() - 1) < 0.0035
    assert abs((x**4).mean() - 3) < 0.05
    assert abs(np.corrcoef(x.ravel()[:-1], x.ravel()[1:])[0, 1]) < 0.005


def test_normal_is_fixed():
    # The last bit of float64's log and cos differs between libraries; rounding to float32 leaves an ulp at most.
    expected = [-1.189172, 0.35312718, 0.12770727]
    assert normal(1, 2, STREAM_NOISE, (3,)).tolist() == pytest.approx(expected, rel=2e-7)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 0), (2, 3, 7)], ids=str)
def test_normal_shapes_share_a_beginning(shape):
    x = normal(1, 2, STREAM_NOISE, shape)
    assert x.shape == shape
    assert x.dtype == np.float32
    assert x.ravel().tolist() == normal(1, 2, STREAM_NOISE, (64,))[: x.size].tolist()


@pytest.mark.parametrize("other", [(2, 2, 1), (1, 3, 1), (1, 2, 2), (1 + (1 << 32), 2, 1)], ids=str)
def test_normal_differs_by_seed_request_and_stream(other):
    assert not np.isclose(normal(1, 2, 1, (64,)), normal(*other, (64,))).any()


@pytest.mark.parametrize(
    "wrong", [(-1, 0, 1), (1 << 64, 0, 1), (0, -1, 1), (0, 1 << 32, 1), (0, 0, 0), (0, 0, 1 << 32)], ids=str
)
def test_normal_refuses_what_does_not_fit(wrong):
    with pytest.raises(ValueError, match=r"expected seed in \[0, 2\*\*64\).*use STREAM_NOISE"):
        normal(*wrong, (1,))
