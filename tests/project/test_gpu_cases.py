"""What the GPU's benchmark runs on a GPU: our CUDA source behind the shim, peers in NumPy's and PyTorch's CPU."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.entry import FAILED
from benchmarks.gpu.kernel_peers import cupy_tokens, reference_tokens
from benchmarks.gpu.kernels import kernel_jobs, num_sets
from benchmarks.gpu.launch_all import small_cases
from benchmarks.gpu.targets import is_kernel
from benchmarks.gpu.timing import Limits, Sizes
from benchmarks.gpu.worker import entries_of
from fake_gpu import FakeDevice
from illume_kernels import oracle
from illume_kernels.guidance import guided
from illume_kernels.params import SampleParams
from illume_runtime.errors import QualityError
from illume_runtime.gpu.accelerator import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))

from cpu_device import CpuDevice, compiled

SMALL = Sizes(
    launches=5, replays=1, bandwidth_bytes=1 << 10, batches=(1, 2), num_tokens=50, width=256, cold_bytes=1 << 16
)
SYMBOLS = (
    "sample_cluster", "sample_group", "sample_gumbel", "head_gemv_w16_2", "head_gemv_w8_2", "head_gemv_w4_2",
    "gather_embedding", "guidance_step", "advance_step",
)  # fmt: skip


@pytest.fixture
def device():
    """A GPU in numpy whose kernels are the CUDA source."""
    library = compiled()
    if library is None:
        pytest.skip("g++ is not installed")
    made = FakeDevice()
    made.run_kernel = CpuDevice(library).run
    return made


@pytest.fixture
def bench(device):
    made = Bench(None, SMALL, Limits(1e9, 1.0), deadline=1e12)
    made.__dict__["gpu"] = Accelerator(device, b"kernels")
    return made


def entries(bench, jobs):
    found = []
    for job in jobs:
        entries_of(job, bench, found.append)
    return found


def test_every_kernel_is_compared_and_timed(bench, device):
    found = entries(bench, kernel_jobs(SMALL))
    assert [entry.reason for entry in found if entry.reason] == []
    assert {symbol for symbol in device.calls if symbol in SYMBOLS} == set(SYMBOLS)
    kernels = [entry for entry in found if is_kernel(entry.name)]
    assert len(kernels) == len(found) - 1
    assert all(entry.is_checked and entry.median > 0 and entry.ratio > 0 for entry in kernels)
    assert all(entry.num_bytes > 0 for entry in kernels)
    names = [entry.name for entry in kernels]
    assert names[:4] == [f"sample {segment} B={batch}" for batch in (1, 2) for segment in ("semantic", "pixel")]


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_kernel_that_differs_fails_alone_and_is_not_timed(bench, device, symbol):
    run = device.run_kernel

    def wrong(launch):
        run(launch)
        if launch.symbol == symbol:
            address = {"guidance_step": 0, "advance_step": 1}.get(symbol)
            if symbol.startswith("sample"):
                address = {"sample_gumbel": -1}.get(symbol, -3)
            elif address is None:
                address = -1
            import ctypes

            ctypes.memset(int(launch.arguments[address]), 0x21, 1)

    device.run_kernel = wrong
    found = {entry.name: entry for entry in entries(bench, kernel_jobs(SMALL))}
    failed = [entry for entry in found.values() if entry.status == FAILED]
    assert failed
    assert len(failed) < 10
    assert {entry.exit_code for entry in failed} == {QualityError.exit_code}
    assert all("differ from the definition" in entry.reason for entry in failed)
    assert all(entry.median is None and not entry.is_checked for entry in failed)
    if symbol.startswith("sample"):
        assert device.calls[f"capture {symbol}"] == 0


def test_a_replay_that_draws_the_same_again_fails(bench, device):
    run, seen = device.run_kernel, set()

    def frozen(launch):
        """From the fourth launch on the draws are those of the first."""
        if launch.symbol == "sample_cluster":
            step = int(launch.arguments[6])
            import ctypes

            counter = ctypes.c_uint32.from_address(step)
            now = counter.value
            counter.value = 0
            run(launch)
            counter.value = now + 1
            seen.add(now)
        else:
            run(launch)

    device.run_kernel = frozen
    jobs = [job for job in kernel_jobs(SMALL) if job.name == "sample pixel B=2"]
    (entry,) = entries(bench, jobs)
    assert max(seen) > 1
    assert entry.status == FAILED
    assert "at step" in entry.reason


def test_the_sanitized_script_launches_every_kernel(device):
    for _, case in small_cases(Accelerator(device, b"kernels")):
        case.check()
    heads = {f"head_gemv_w{bits}_{rows}" for bits in (4, 8, 16) for rows in (2, 8, 16)}
    assert {*SYMBOLS, *heads} <= set(device.calls)


def test_tables_in_turn_are_larger_than_a_cache():
    sizes = Sizes(cold_bytes=100)
    assert [num_sets(n, sizes) for n in (1, 30, 99, 100, 101, 1000)] == [8, 4, 2, 1, 1, 1]


# ---- peers


def chances(scores, top_k):
    params = SampleParams.broadcast(1, top_k=top_k, top_p=0.8)
    return oracle.probabilities(guided(scores[:1], scores[1:], 2.0), params)[0]


def torch_draws(logits, top_k):
    import torch

    torch.manual_seed(0)
    return reference_tokens(torch, top_k, torch.from_numpy(logits)).numpy()[:, 0]


def numpy_draws(logits, top_k):
    return cupy_tokens(np, top_k, logits, np.random.default_rng(0).random)[:, 0]


@pytest.mark.parametrize("draws", [torch_draws, numpy_draws], ids=["torch", "cupy"])
@pytest.mark.parametrize("top_k", [6, 50])
def test_peers_draw_what_we_draw(draws, top_k):
    rows, n = 40_000, 50
    both = np.random.default_rng(1).standard_normal((2, n)).astype(np.float32)
    tokens = draws(np.repeat(both, rows, axis=0), top_k)
    expected = chances(both, top_k)
    got = np.bincount(tokens, minlength=n) / rows
    assert not got[expected == 0].any()
    assert np.abs(got - expected).max() < 5 * np.sqrt(0.25 / rows)  # five deviations of the worst chance
    assert 1 < np.count_nonzero(expected) < n


def test_the_draw_without_waiting_is_that_of_the_reference():
    import torch

    from benchmarks.gpu import torch_loops

    rows, n = 20_000, 3000
    scores = torch.from_numpy(np.random.default_rng(2).standard_normal((1, n)).astype(np.float32) * 3)
    scores[:, 100:200] = float("-inf")
    params = partial(SampleParams.broadcast, 1, top_k=2048, top_p=0.8)
    expected = oracle.probabilities(np.nan_to_num(scores.numpy(), neginf=-np.inf), params())[0]
    torch.manual_seed(0)
    drawn = [torch_loops.drawn_by_race(scores.expand(100, -1)).numpy() for _ in range(rows // 100)]
    got = np.bincount(np.concatenate(drawn), minlength=n) / rows
    assert not got[expected == 0].any()
    assert np.abs(got - expected).max() < 5 * np.sqrt(0.25 / rows)
