import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illume_kernels.fixed_point import ONE, ceil_share, mulhi64, weights_from_scores

WORDS = st.integers(0, (1 << 64) - 1)


def weights(*scores):
    x = np.array([scores], np.float32)
    return weights_from_scores(x, x.max(axis=1))[0].tolist()


def test_weights_follow_the_exponential():
    d = -np.linspace(0, 20, 100_001, dtype=np.float32)[None]
    exact = np.exp(d[0].astype(np.float64)) * ONE
    error = weights_from_scores(d, np.zeros(1, np.float32))[0] / exact - 1
    # A few float32 roundings and, at 20 below the largest (2266 units), the truncation of one unit.
    assert np.abs(error[:50_000]).max() < 3e-7
    assert np.abs(error).max() < 1 / 2000


def test_weights_are_pinned():
    # Bits that another implementation must reproduce; from this one, checked against the exponential above.
    assert weights(0, -0.5, -1, -5.25, -27, -27.7256, -27.7262, -1000) == [
        1099511627776,
        666887520256,
        404487733248,
        5769707520,
        2,
        1,
        0,
        0,
    ]


def test_a_weight_never_exceeds_one():
    near = -np.arange(1 << 20, dtype=np.uint32).view(np.float32)
    steps = -np.geomspace(1e-12, 1, 1 << 20, dtype=np.float32)
    for d in (near, steps):
        assert weights_from_scores(d[None], np.zeros(1, np.float32)).max() <= ONE


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param((0.0, -0.0), [ONE, ONE], id="zeros of both signs"),
        pytest.param((np.inf, 3e38, np.inf), [ONE, 0, ONE], id="infinity shares the row"),
        pytest.param((-np.inf, 1.0), [0, ONE], id="minus infinity weighs nothing"),
        pytest.param((-np.inf, -np.inf), [0, 0], id="empty row"),
        pytest.param((3.4e38, -3.4e38), [ONE, 0], id="difference overflows"),
    ],
)
def test_weights_at_the_edges_of_float32(scores, expected):
    assert weights(*scores) == expected


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=20))
def test_mulhi64_is_the_high_half_of_the_product(pairs):
    a, b = (np.array(column, np.uint64) for column in zip(*pairs, strict=True))
    assert mulhi64(a, b).tolist() == [x * y >> 64 for x, y in pairs]


@given(st.lists(st.integers(0, (1 << 62) - 1), min_size=1, max_size=20), st.integers(1, (1 << 24) - 1))
def test_ceil_share_is_exact(totals, numerator):
    share = np.full(len(totals), numerator * 2.0**-24, np.float32)
    exact = [max(1, -(-total * numerator >> 24)) for total in totals]
    assert ceil_share(np.array(totals, np.uint64), share).tolist() == exact
