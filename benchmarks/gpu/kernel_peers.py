"""What else can be had on a GPU for the work of our kernels: PyTorch, eager and compiled, CuPy, FlashInfer.

All get the logits of both sides in float16 and give tokens: guidance, temperature, top-k, top-p, draw. PyTorch's and
FlashInfer's calls are timed one by one and as a CUDA graph of as many as a graph of ours has launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.gpu.bench import Bench, peer_module
from benchmarks.gpu.case import GUIDANCE, TOP_P, repeated_rows
from benchmarks.gpu.entry import FAILED, Entry, Job
from benchmarks.gpu.kernels import SETS, num_sets
from benchmarks.gpu.timing import Sizes, called_us, graphed_us
from benchmarks.gpu.token_cases import logits_of

SECTION, COMPILED_SECTION = "peers of kernels", "compiled peers of kernels"
TEMPERATURE = 1.0


def peer_jobs(sizes: Sizes) -> list[Job]:
    """The quick ones: nothing is compiled."""
    jobs: list[Job] = []
    for side, peer in (("torch", _torch), ("cupy", _cupy), ("flashinfer", _flashinfer)):
        for batch in sizes.batches:
            for segment in sizes.segments:
                name = f"sample {segment} B={batch}"
                work = partial(peer, name, batch, *sizes.segment(segment))
                jobs.append(Job(name, SECTION, side, 4, 60, work))
    for segment in sizes.segments:
        n, _ = sizes.segment(segment)
        name = f"head_gemv {segment} float16"
        jobs.append(Job(name, SECTION, "torch", 4, 60, partial(_matmul, name, n)))
    return jobs


def compiled_jobs(sizes: Sizes) -> list[Job]:
    """The sampler under `torch.compile`, each shape compiled for itself."""
    return [
        Job(name, COMPILED_SECTION, "torch.compile", 15, 90, partial(_compiled, name, batch, *sizes.segment(segment)))
        for batch in sizes.batches
        for segment in sizes.segments
        for name in (f"sample {segment} B={batch}",)
    ]


def reference_tokens(torch: Any, top_k: int, logits: Any) -> Any:
    """Tokens [B, 1] of logits [2 B, n] as the public reference chooses them, but for the draw.

    The draw is a race of exponentials, as gpt-fast makes it: `torch.multinomial` lets the host wait for the device.
    """
    batch = len(logits) // 2
    cond, uncond = torch.log_softmax(logits[:batch], -1), torch.log_softmax(logits[batch:], -1)
    scores = (uncond + GUIDANCE * (cond - uncond)) / TEMPERATURE
    values, indices = torch.topk(scores, top_k)
    shares = torch.softmax(values.float(), -1)
    shares = torch.where(shares.cumsum(-1) - shares <= TOP_P, shares, 0.0)
    race = torch.empty_like(shares).exponential_(1)
    return indices.gather(-1, (shares / race).argmax(-1, keepdim=True))


def cupy_tokens(cupy: Any, top_k: int, logits: Any, uniform: Callable[[tuple[int, int]], Any]) -> Any:
    """The same in CuPy: its sort, a running sum, a draw by the sum's inverse; `uniform` gives numbers of a shape."""
    batch = len(logits) // 2
    cond, uncond = logits[:batch].astype(cupy.float32), logits[batch:].astype(cupy.float32)
    scores = (uncond + GUIDANCE * (cond - uncond)) / TEMPERATURE
    order = cupy.argsort(-scores, axis=-1)[:, :top_k]
    values = cupy.take_along_axis(scores, order, axis=-1)
    shares = cupy.exp(values - values[:, :1])
    shares /= shares.sum(axis=-1, keepdims=True)
    prefix = cupy.cumsum(shares, axis=-1)
    prefix = cupy.cumsum(cupy.where(prefix - shares <= TOP_P, shares, 0), axis=-1)
    drawn = uniform((batch, 1)) * prefix[:, -1:]
    column = cupy.minimum((prefix <= drawn).sum(axis=-1, keepdims=True), top_k - 1)
    return cupy.take_along_axis(order, column, axis=-1)


def both_ways(
    name: str, side: str, call: Callable[[int], Any], num_inputs: int, bench: Bench, note: str = ""
) -> Iterator[Entry]:
    """A call of PyTorch one by one, then within a graph; that it cannot be captured is an entry, too."""
    torch = bench.torch()
    eager = called_us(call, num_inputs, torch.cuda.synchronize, bench.sizes)
    yield Entry.of_times(name, side, eager, note=note)
    try:
        times = graphed_us(call, num_inputs, bench.sizes)
    except Exception as error:
        reason = f"cannot be captured: {type(error).__name__}: {' '.join(str(error).split())}"[:300]
        yield Entry(name, f"{side} graph", FAILED, reason, exit_code=8)
        return
    yield Entry.of_times(name, f"{side} graph", times, note=note)


def _inputs(bench: Bench, batch: int, n: int) -> list[Any]:
    torch = bench.torch()
    return [torch.from_numpy(logits_of(seed, batch, n)).cuda() for seed in range(SETS)]


def _torch(name: str, batch: int, n: int, top_k: int, bench: Bench) -> Iterator[Entry]:
    inputs, choose = _inputs(bench, batch, n), partial(reference_tokens, bench.torch(), top_k)
    yield from both_ways(name, "torch", lambda i: choose(inputs[i]), SETS, bench)


def _compiled(name: str, batch: int, n: int, top_k: int, bench: Bench) -> Iterator[Entry]:
    torch, inputs = bench.torch(), _inputs(bench, batch, n)
    torch.compiler.reset()

    def reference(logits: Any) -> Any:
        return reference_tokens(torch, top_k, logits)

    choose = torch.compile(reference, dynamic=False, fullgraph=True)
    yield from both_ways(name, "torch.compile", lambda i: choose(inputs[i]), SETS, bench)


def _cupy(name: str, batch: int, n: int, top_k: int, bench: Bench) -> Iterator[Entry]:
    cupy = peer_module("cupy")
    inputs = [cupy.asarray(logits_of(seed, batch, n)) for seed in range(SETS)]
    choose = partial(cupy_tokens, cupy, top_k, uniform=partial(cupy.random.random, dtype=cupy.float32))
    times = called_us(lambda i: choose(inputs[i]), SETS, cupy.cuda.Device().synchronize, bench.sizes)
    yield Entry.of_times(name, "cupy", times)


def _flashinfer(name: str, batch: int, n: int, top_k: int, bench: Bench) -> Iterator[Entry]:
    flashinfer = peer_module("flashinfer")
    both = _inputs(bench, batch, n)
    inputs = [one[batch:].float() + GUIDANCE * (one[:batch].float() - one[batch:].float()) for one in both]

    def choose(i: int) -> Any:
        return flashinfer.sampling.top_k_top_p_sampling_from_logits(inputs[i], top_k, TOP_P)

    note = "gets combined logits in float32: without guidance and temperature"
    yield from both_ways(name, "flashinfer", choose, SETS, bench, note)


def _matmul(name: str, n: int, bench: Bench) -> Iterator[Entry]:
    torch, width = bench.torch(), bench.sizes.width
    count = num_sets(2 * n * width, bench.sizes)
    table = torch.from_numpy(repeated_rows(4, n, width, "float16"))
    weights = [table.cuda() for _ in range(count)]
    hidden = torch.from_numpy(repeated_rows(5, 2, width, "float16")).cuda()

    def product(i: int) -> Any:
        return torch.nn.functional.linear(hidden, weights[i])

    yield from both_ways(name, "torch", product, count, bench, "a product alone: without guidance, float16 out")
