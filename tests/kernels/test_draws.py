"""A million draws have the distribution that they should have; one per cent too many of a token would be seen.

Seeds are fixed, so a test passes always or never; with other seeds a right sampler fails one in ten million.
"""

import numpy as np
import pytest
from p_value import chi_square_p_value, kolmogorov_smirnov_p_value
from reference import reference_probabilities
from sample_case import CLUSTER_GPU, GROUP_GPU, Case

from illume_kernels import oracle
from illume_kernels.guidance import guided
from illume_kernels.gumbel import gumbel_noise, sample_gumbel
from illume_kernels.params import SampleParams
from illume_kernels.philox import STREAM_GUMBEL, STREAM_TOKENS, uniform_u64

RARE = 1e-7
NUM_TOKENS = 24
SETTINGS = [
    pytest.param({"temperature": 1.5}, id="all"),
    pytest.param({"top_k": 12}, id="k12"),
    pytest.param({"top_p": 0.9}, id="p90"),
    pytest.param({"min_p": 0.1}, id="min10"),
    pytest.param({"temperature": 1.2, "top_k": 15, "top_p": 0.95, "min_p": 0.05}, id="k15-p95-min5"),
]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def exact(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    return reference_probabilities(logits, temperature, top_k, top_p, min_p)


def params_of(first, count, **settings):
    """`count` of the pairs (request, step) of 1000 requests, from the pair `first`."""
    pair = np.arange(first, first + count)
    return SampleParams.broadcast(count, seed=2024, request=pair % 1000, step=pair // 1000, **settings)


def counts_of_a_million(logits, **settings):
    """How often each token is drawn: the weights once, as they are the same in every row, then all the draws."""
    weights = oracle.support(logits[None], SampleParams.broadcast(1, **settings))
    counts = np.zeros(len(logits), np.int64)
    for first in range(0, 1_000_000, 50_000):
        params = params_of(first, 50_000, **settings)
        tokens = oracle.draw(np.broadcast_to(weights, (50_000, len(logits))), params)
        few = params_of(first, 50, **settings)
        assert (tokens[:50] == oracle.sample(np.tile(logits, (50, 1)), few)).all()
        counts += np.bincount(tokens, minlength=len(logits))
    return counts


# ---- sample


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_million_draws_have_the_exact_distribution(settings):
    logits = normal(2, NUM_TOKENS)
    assert chi_square_p_value(counts_of_a_million(logits, **settings), exact(logits, **settings)) > RARE


def test_a_million_guided_draws_have_the_exact_distribution():
    cond, uncond = normal(2, NUM_TOKENS), normal(3, NUM_TOKENS)
    counts = counts_of_a_million(guided(cond, uncond, 1.5), top_p=0.95)
    assert chi_square_p_value(counts, exact(uncond + 1.5 * (cond - uncond), top_p=0.95)) > RARE
    assert chi_square_p_value(counts, exact(uncond + 1.52 * (cond - uncond), top_p=0.95)) < RARE


def test_a_million_draws_show_one_per_cent_too_many_of_a_token():
    logits = normal(2, NUM_TOKENS)
    chances = exact(logits)
    for token in (logits.argmax(), logits.argmin()):
        p, q = chances[token], chances[token] + 0.01
        biased = logits.copy()
        biased[token] += np.log(q / (1 - q)) - np.log(p / (1 - p))
        assert chi_square_p_value(counts_of_a_million(biased), chances) < RARE
        assert chi_square_p_value(counts_of_a_million(biased), exact(biased)) > RARE


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        pytest.param({"temperature": 1.02}, {"temperature": 1.0}, id="temperature"),
        pytest.param({"top_k": 12}, {"top_k": 13}, id="one token fewer"),
        pytest.param({"top_k": 13}, {"top_k": 12}, id="one token more"),
    ],
)
def test_a_million_draws_show_another_setting(drawn, said):
    logits = normal(2, NUM_TOKENS)
    assert chi_square_p_value(counts_of_a_million(logits, **drawn), exact(logits, **said)) < RARE


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [GROUP_GPU, CLUSTER_GPU], ids=["group", "cluster"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_draws_of_the_cuda_source_equal_the_oracle(device, settings, gpu):
    logits = np.tile(normal(2, NUM_TOKENS), (200, 1))
    params = params_of(0, 200, **settings)
    case = Case(logits, params, block=32, gpu=gpu)
    device.run(case.launch)
    np.testing.assert_array_equal(case.token, oracle.sample(logits, params))


# ---- the numbers behind the draws


@pytest.mark.parametrize("word", ["seed", "request"])
@pytest.mark.parametrize("stream", [STREAM_TOKENS, STREAM_GUMBEL])
def test_a_million_numbers_are_uniform_and_do_not_foretell_the_next(word, stream):
    words = {"seed": 7, "request": 9, word: np.arange(1000)[:, None]}
    numbers = uniform_u64(words["seed"], words["request"], np.arange(1000)[None], stream).astype(np.float64) * 2.0**-64
    assert kolmogorov_smirnov_p_value(numbers.ravel()) > RARE
    cells = (numbers * 32).astype(np.int64)
    for this, following in ((cells[:, :-1:2], cells[:, 1::2]), (cells[:-1:2], cells[1::2])):
        counts = np.bincount((32 * this + following).ravel(), minlength=1024)
        assert chi_square_p_value(counts, np.full(1024, 1 / 1024)) > RARE


def test_kolmogorov_smirnov_shows_a_bias_of_one_per_cent():
    numbers = uniform_u64(7, np.arange(1000)[:, None], np.arange(1000)[None], STREAM_TOKENS).ravel() * 2.0**-64
    assert kolmogorov_smirnov_p_value(numbers**1.01) < RARE
    numbers[::100] /= 2
    assert kolmogorov_smirnov_p_value(numbers) < RARE


# ---- sample_gumbel


def test_a_million_gumbel_numbers_have_their_distribution():
    numbers = uniform_u64(7, np.arange(1000)[:, None], np.arange(1000)[None], STREAM_GUMBEL).ravel()
    noise = gumbel_noise(numbers).astype(np.float64)
    assert kolmogorov_smirnov_p_value(np.exp(-np.exp(-noise))) > RARE
    assert kolmogorov_smirnov_p_value(np.exp(-np.exp(-(noise + 0.01)))) < RARE


def test_a_million_draws_of_gumbel_have_the_exact_distribution():
    logits, temperature = normal(3, 8), 1.5
    counts = np.zeros(8, np.int64)
    for first in range(0, 1_000_000, 50_000):
        params = params_of(first, 50_000, temperature=temperature)
        counts += np.bincount(sample_gumbel(np.broadcast_to(logits, (50_000, 8)), params), minlength=8)
    assert chi_square_p_value(counts, exact(logits, temperature=temperature)) > RARE
    assert chi_square_p_value(counts, exact(logits, temperature=1.02 * temperature)) < RARE
