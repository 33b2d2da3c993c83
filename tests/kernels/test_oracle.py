import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import reference_guided, reference_probabilities
from sample_case import stored

from illume_kernels import oracle
from illume_kernels.guidance import guided
from illume_kernels.oracle import SampleParams, greedy, probabilities, sample

NAN, INF = np.nan, np.inf
SMALLEST = 2.0**-40  # relative to the largest: what is less probable has weight 0


def rows(*values):
    return np.array(values, np.float32)


def support(logits, **scalars):
    logits = np.atleast_2d(rows(*logits))
    return np.flatnonzero(probabilities(logits, SampleParams.broadcast(1, **scalars))[0]).tolist()


def random_logits(seed, batch, num_tokens, spread):
    return (np.random.default_rng(seed).standard_normal((batch, num_tokens)) * spread).astype(np.float32)


def assert_same_distribution(chance, exact):
    """Total variation <= 1e-5 and equal support, but for the rounding of a weight next to 1."""
    assert np.abs(chance - exact).sum() / 2 <= 1e-5
    smallest = exact.max() * SMALLEST
    assert (chance[exact > 1.0001 * smallest] > 0).all()
    assert (chance[exact < 0.9999 * smallest] == 0).all()


# ---- the distribution against the float64 reference

FILTERS = [
    pytest.param({}, id="none"),
    pytest.param({"top_k": 1}, id="k1"),
    pytest.param({"top_k": 50}, id="k50"),
    pytest.param({"top_p": 0.9}, id="p90"),
    pytest.param({"top_p": 0.013}, id="p1"),
    pytest.param({"top_p": 0.9999}, id="p9999"),
    pytest.param({"min_p": 0.05}, id="min5"),
    pytest.param({"top_k": 200, "top_p": 0.95}, id="k200-p95"),
    pytest.param({"top_k": 60, "top_p": 0.8, "min_p": 0.02}, id="all"),
]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0], ids=lambda s: f"spread{s}")
@pytest.mark.parametrize("num_tokens", [1, 2, 63, 514, 1024, 8193, 40_000], ids=lambda n: f"n{n}")
def test_probabilities_equal_the_reference(num_tokens, spread, filters):
    logits = random_logits(num_tokens, 2, num_tokens, spread)
    assert_equal_to_the_reference(logits, logits, filters)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("guidance", [1.5, 3.0, 7.3], ids=lambda g: f"g{g}")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("num_tokens", [63, 1024, 40_000], ids=lambda n: f"n{n}")
def test_guided_probabilities_equal_the_reference(num_tokens, dtype, guidance, filters):
    """Which subtracts, multiplies, adds and divides in float64."""
    cond, uncond = (stored(random_logits(num_tokens + side, 2, num_tokens, 3.0), dtype)[1] for side in range(2))
    assert_equal_to_the_reference(guided(cond, uncond, guidance), reference_guided(cond, uncond, guidance), filters)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("guidance", [None, 1.5, 3.0], ids=["plain", "g1.5", "g3"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("num_tokens", [1024, 40_000], ids=lambda n: f"n{n}")
def test_probabilities_of_rounded_logits_with_ties_equal_the_reference(num_tokens, dtype, guidance, filters):
    """Logits of 10 and thereabouts are multiples of 1 / 128 in float16 and of 1 / 16 in bfloat16."""
    logits = np.float32(10) + random_logits(num_tokens, 4, num_tokens, 0.05)
    cond, uncond = np.split(stored(logits, dtype)[1], 2)
    scores, exact = cond, cond
    if guidance is not None:
        scores, exact = guided(cond, uncond, guidance), reference_guided(cond, uncond, guidance)
        np.testing.assert_array_equal(scores, exact)  # so that ties are ties in both
    chances = assert_equal_to_the_reference(scores, exact, filters)
    if num_tokens == 40_000 and filters == {"top_k": 50}:
        assert ((chances > 0).sum(axis=1) > 50).any(), "no tie at the 50th"
    if num_tokens == 40_000 and filters == {"top_p": 0.9}:
        for row, chance in zip(scores, chances, strict=True):
            assert row[chance == 0].max() == row[chance > 0].min(), "no tie at the edge of top-p"


def assert_equal_to_the_reference(scores, exact, filters):
    temperature = np.array([0.7, 1.3], np.float32)
    chances = probabilities(scores, SampleParams.broadcast(2, temperature=temperature, **filters))
    options = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, **filters}
    for row, t, chance in zip(exact, temperature, chances, strict=True):
        assert_same_distribution(chance, reference_probabilities(row, t, **options))
    return chances


@settings(max_examples=300, deadline=None)
@given(
    logits=hnp.arrays(np.float32, st.integers(1, 40), elements=st.integers(-12, 12).map(float)),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.integers(0, 45),
    top_p=st.sampled_from([1.0, 0.97, 0.71, 0.333, 0.0101]),
    min_p=st.sampled_from([0.0, 0.011, 0.37, 1.0]),
)
@example(logits=np.zeros(10, np.float32), temperature=1.0, top_k=3, top_p=0.71, min_p=0.0)
def test_probabilities_equal_the_reference_with_many_ties(logits, temperature, top_k, top_p, min_p):
    params = SampleParams.broadcast(1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    chance = probabilities(logits[None], params)[0]
    exact = reference_probabilities(logits, temperature, top_k, top_p, min_p)
    assert_same_distribution(chance, exact)


@pytest.mark.parametrize("num_tokens", [300, 20_000], ids=["sorted whole", "partitioned"])
def test_rows_with_different_filters_share_a_batch(num_tokens):
    logits = random_logits(5, 6, num_tokens, 0.5)
    logits[4] = np.round(logits[4])
    params = SampleParams.broadcast(
        6,
        temperature=[0, 1, 0.5, 2, 1, 1],
        top_k=[0, 3, 0, 150, 7, 0],
        top_p=[0.5, 1, 0.9, 0.6, 0.77, 0.999],
        min_p=[0, 0.5, 0, 0.01, 0, 0],
        seed=np.arange(6),
    )
    together = probabilities(logits, params)
    for row in range(6):
        alone = SampleParams(*(getattr(params, name)[row : row + 1] for name in SampleParams.__slots__))
        assert probabilities(logits[row : row + 1], alone)[0].tolist() == together[row].tolist()
        assert sample(logits[row : row + 1], alone)[0] == sample(logits, params)[row]


def test_top_p_looks_further_where_the_first_candidates_do_not_reach():
    flat = np.zeros((1, 3 * oracle._SORTED_WHOLE), np.float32) + np.linspace(0, 0.1, 3 * oracle._SORTED_WHOLE)
    chance = probabilities(flat.astype(np.float32), SampleParams.broadcast(1, top_p=0.9))[0]
    exact = reference_probabilities(flat[0], 1.0, 0, 0.9, 0.0)
    assert (chance > 0).sum() > oracle._FIRST_CANDIDATES
    assert ((chance > 0) == (exact > 0)).all()


# ---- edges of the filters

EDGES = [
    pytest.param([1, 3, 3, 2, 3], {"top_k": 1}, [1, 2, 4], id="top-k keeps all ties"),
    pytest.param([0, 0, 0, 0], {"top_p": 0.5}, [0, 1], id="top-p drops a token with exactly p before it"),
    pytest.param([0, 0, 0, 0], {"top_p": 0.51}, [0, 1, 2], id="top-p keeps ties in index order"),
    pytest.param([0, 9, 0, 0], {"top_p": 0.9}, [1], id="top-p keeps the token that crosses"),
    pytest.param([2, 5, 1], {"top_p": 1e-6}, [1], id="top-p keeps one"),
    pytest.param([5, 5, 5, 1], {"top_k": 1, "top_p": 0.5}, [0, 1], id="top-p among the ties of top-k"),
    pytest.param([0, np.log(0.5), np.log(0.4)], {"min_p": 0.45}, [0, 1], id="min-p is relative to the largest"),
    pytest.param([0, 0, -1e-3], {"min_p": 1.0}, [0, 1], id="min-p 1 keeps ties of the largest"),
    pytest.param([1, 2, 3], {"top_k": 99}, [0, 1, 2], id="k beyond n is off"),
    pytest.param([0.0, -0.0, -1], {"top_k": 1}, [0, 1], id="zeros of both signs tie"),
    pytest.param([INF, 1, INF], {}, [0, 2], id="infinities share"),
    pytest.param([INF, 1, INF], {"top_k": 1, "top_p": 0.3}, [0], id="infinities tie"),
    pytest.param([NAN, 1, -INF, 1], {}, [1, 3], id="nan and minus infinity are illegal"),
    pytest.param([NAN, 1, 2, 0], {"top_k": 2}, [1, 2], id="nan does not count in top-k"),
    pytest.param([NAN, NAN], {}, [], id="only nan"),
    pytest.param([-INF, NAN], {"top_k": 1, "top_p": 0.5, "min_p": 0.5}, [], id="empty under all filters"),
    pytest.param([3e38, 3e38, -3e38], {"temperature": 0.1}, [0, 1], id="temperature overflows"),
    pytest.param([1, 2, 2, 0], {"temperature": 0.0, "top_k": 3}, [1], id="greedy is one token"),
]


@pytest.mark.parametrize(("logits", "scalars", "expected"), EDGES)
def test_support(logits, scalars, expected):
    assert support(logits, **scalars) == expected


@pytest.mark.parametrize(("logits", "scalars", "expected"), EDGES)
def test_sample_stays_in_the_support(logits, scalars, expected):
    params = SampleParams.broadcast(64, step=np.arange(64), **scalars)
    tokens = sample(np.tile(rows(logits), (64, 1)), params)
    assert tokens.dtype == np.int64
    assert set(tokens.tolist()) == (set(expected) or {-1})


@settings(max_examples=300, deadline=None)
@given(
    logits=hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 30)), elements=st.floats(width=32)),
    temperature=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
    top_k=st.integers(0, 5),
    top_p=st.sampled_from([1.0, 0.6, 1e-3]),
    step=st.integers(0, 1000),
)
def test_any_logits_give_a_legal_token_or_none(logits, temperature, top_k, top_p, step):
    params = SampleParams.broadcast(len(logits), temperature=temperature, top_k=top_k, top_p=top_p, step=step)
    chances = probabilities(logits, params)
    for row, token in enumerate(sample(logits, params).tolist()):
        if token == -1:
            assert (np.isnan(logits[row]) | np.isneginf(logits[row] / np.float32(temperature or 1))).all()
        else:
            assert chances[row, token] > 0
            assert chances[row].sum() == pytest.approx(1, abs=1e-12)


# ---- greedy, forced, banned


def test_greedy_ties_go_to_the_lowest_index():
    logits = rows([1, 3, 3], [-0.0, 0.0, -1], [NAN, -INF, -7], [NAN, NAN, -INF])
    assert greedy(logits).tolist() == [1, 0, 2, -1]


def test_forced_tokens_pass_through_and_their_logits_are_not_looked_at():
    logits = rows([NAN, NAN], [0, 9], [NAN, NAN])
    params = SampleParams.broadcast(3, temperature=[1.0, 0.0, 1.0])
    assert sample(logits, params, forced=np.array([515, -1, -1])).tolist() == [515, 1, -1]
    assert sample(logits, params, forced=np.array([515, 0, 514])).tolist() == [515, 0, 514]


def test_banned_tokens_are_never_drawn():
    logits = rows([9, 1, 8, 1], [9, 8, 7, 1])
    assert greedy(logits, banned=[0, 2]).tolist() == [1, 1]
    assert greedy(logits, banned=[0, 1, 2, 3]).tolist() == [-1, -1]
    chances = probabilities(logits, SampleParams.broadcast(2, top_k=1), banned=np.array([0, 2]))
    assert (chances > 0).tolist() == [[False, True, False, True], [False, True, False, False]]


def test_the_logits_are_left_as_they_were():
    logits = rows([NAN, -0.0, 3, 1])
    before = logits.tobytes()
    sample(logits, SampleParams.broadcast(1, top_k=2, top_p=0.5, min_p=0.1), banned=[3])
    assert logits.tobytes() == before


# ---- the draw


@pytest.mark.parametrize("filters", [{}, {"top_k": 40, "top_p": 0.9}], ids=["none", "k40-p90"])
def test_a_choice_does_not_depend_on_its_row_or_batch(filters):
    logits = random_logits(1, 12, 257, 2.0)
    seed, request, step = np.arange(12) + 5, np.arange(12)[::-1] * 3, np.arange(12) * 7
    params = SampleParams.broadcast(12, seed=seed, request=request, step=step, **filters)
    tokens = sample(logits, params)
    for order in (np.arange(12)[::-1], np.array([4]), np.array([3, 3, 9])):
        some = SampleParams(*(getattr(params, name)[order] for name in SampleParams.__slots__))
        assert sample(logits[order], some).tolist() == tokens[order].tolist()


@pytest.mark.parametrize("word", ["seed", "request", "step"])
def test_draws_differ_by(word):
    # 64 tokens of equal chance, 1000 draws: 1000 equal tokens would be the frozen counter that other samplers shipped.
    params = SampleParams.broadcast(1000, **{word: np.arange(1000)})
    tokens = sample(np.zeros((1000, 64), np.float32), params)
    assert len(set(tokens.tolist())) == 64
    assert (tokens[1:] == tokens[:-1]).mean() < 0.05


def test_at_step_moves_the_counter_and_nothing_else():
    params = SampleParams.broadcast(2, seed=3, request=[1, 2], top_k=5)
    moved = params.at_step(9)
    expected = SampleParams.broadcast(2, seed=3, request=[1, 2], top_k=5, step=9)
    for name in SampleParams.__slots__:
        assert getattr(moved, name).tolist() == getattr(expected, name).tolist()
    assert params.step.tolist() == [0, 0]
    assert moved.step.dtype == np.uint32


def test_a_sequence_of_tokens_is_pinned():
    # What any other implementation must draw from these logits; from this one.
    logits = ((np.arange(97) * 37 % 97) / 16).astype(np.float32)[None]
    params = SampleParams.broadcast(1, temperature=0.8, top_k=60, top_p=0.95, seed=(1 << 63) + 11, request=4)
    assert [int(sample(logits, params.at_step(k))[0]) for k in range(12)] == [
        34,
        89,
        5,
        7,
        60,
        26,
        18,
        10,
        23,
        55,
        94,
        34,
    ]


# ---- what a caller can do wrong


@pytest.mark.parametrize(
    ("logits", "forced", "match"),
    [
        pytest.param(np.zeros((3, 4)), None, r"logits have shape \(3, 4\), expected \[2, n\]", id="rows"),
        pytest.param(np.zeros(4), None, r"logits have shape \(4,\), expected \[2, n\]", id="one axis"),
        pytest.param(np.zeros((2, 0)), None, r"0 < n <= 4194304", id="no tokens"),
        pytest.param(np.zeros((2, 4)), np.array([-1]), r"forced has shape \(1,\), expected \(2,\)", id="forced"),
    ],
)
def test_shapes_that_do_not_agree_are_refused(logits, forced, match):
    with pytest.raises(ValueError, match=match):
        sample(logits.astype(np.float32), SampleParams.broadcast(2), forced=forced)
