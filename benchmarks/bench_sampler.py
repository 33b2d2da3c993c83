"""One token for each row: `illume_kernels.oracle.sample` beside a plain numpy sampler that sorts the whole row.

python -m pytest benchmarks/bench_sampler.py --benchmark-only --benchmark-group-by=param:batch,param:num_tokens
"""

import numpy as np
import pytest

from illume_kernels.oracle import SampleParams, sample

TOP_K, TOP_P, TEMPERATURE = 200, 0.95, 1.0


def sample_by_sorting(logits, rng):
    """Tokens [B] by argsort, softmax and cumsum in float32, as samplers are usually written."""
    order = np.argsort(-logits, axis=1)
    x = np.take_along_axis(logits, order, axis=1) / np.float32(TEMPERATURE)
    x[:, TOP_K:] = -np.inf
    p = np.exp(x - x[:, :1])
    p /= p.sum(axis=1, keepdims=True)
    p[np.cumsum(p, axis=1) - p >= TOP_P] = 0
    prefix = np.cumsum(p, axis=1)
    chosen = (prefix > rng.random((len(p), 1), dtype=np.float32) * prefix[:, -1:]).argmax(axis=1)
    return np.take_along_axis(order, chosen[:, None], axis=1)[:, 0]


@pytest.fixture
def logits(batch, num_tokens):
    return (np.random.default_rng(0).standard_normal((batch, num_tokens)) * 3).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 2, 8], ids=lambda b: f"B{b}")
@pytest.mark.parametrize("num_tokens", [1024, 32_768], ids=lambda n: f"n{n}")
@pytest.mark.parametrize("sampler", ["illume", "sorting"])
def test_top_k_top_p(benchmark, logits, batch, sampler):
    if sampler == "sorting":
        rng = np.random.default_rng(0)
        tokens = benchmark(lambda: sample_by_sorting(logits, rng))
    else:
        params = SampleParams.broadcast(batch, temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P)
        tokens = benchmark(lambda: sample(logits, params))
    assert (np.take_along_axis(logits, tokens[:, None], axis=1) > 0).all()
    benchmark.extra_info["logits_bytes"] = logits.nbytes


@pytest.mark.parametrize("batch", [1, 2], ids=lambda b: f"B{b}")
@pytest.mark.parametrize("num_tokens", [514], ids=lambda n: f"n{n}")
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "plain"])
def test_without_filters(benchmark, logits, batch, temperature):
    params = SampleParams.broadcast(batch, temperature=temperature)
    assert (benchmark(lambda: sample(logits, params)) >= 0).all()
