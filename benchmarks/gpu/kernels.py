"""Our kernels, each beside what else can be had on a GPU for the same work.

A kernel is timed as a graph of LAUNCHES launches over SETS different inputs, replayed REPLAYS times; its floor is the
larger of its bytes by the measured bandwidth and of an empty launch, measured in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.timing import SEGMENTS, Limits, Sizes, Timing, called_us, replayed_us, timing
from illume_kernels import oracle
from illume_kernels.guidance import guided
from illume_kernels.launch import Launch, Segment
from illume_kernels.params import SampleParams
from illume_kernels.rows import rows_from_params
from illume_kernels.sample_plan import sample_plan
from illume_kernels.step_launch import guidance_step
from illume_runtime.errors import QualityError
from illume_runtime.gpu.accelerator import Accelerator

SETS = 4
TOP_P, GUIDANCE = 0.8, 2.0
LATENTS = 4 * 64 * 64


def sampler_launches(gpu: Accelerator, batch: int, n: int, top_k: int) -> tuple[list[Launch], list[Any], list[Any]]:
    """Launches over SETS inputs, what they work on, and (logits, token) of each, for the check and for peers."""
    plan = sample_plan(gpu.device.gpu, batch, n)
    params = SampleParams.broadcast(batch, top_k=top_k, top_p=TOP_P, request=np.arange(batch))
    rows = gpu.uploaded(rows_from_params(params, guidance=GUIDANCE, uncond_row=np.arange(batch, 2 * batch)))
    workspace, keys = (gpu.array((size,), np.uint8) for size in (plan.workspace_bytes, plan.keys_bytes))
    launches, kept, cases = [], [rows, workspace, keys], []
    for seed in range(SETS):
        values = (np.random.default_rng(seed).standard_normal((2 * batch, n)) * 3).astype(np.float16)
        logits, step = gpu.uploaded(values), gpu.array((batch,), np.uint32)
        token = gpu.array((batch,), np.int32)
        launch = plan.launch(
            Segment(logits.address, "float16", n, 0, n),
            rows.address,
            step.address,
            token.address,
            workspace=workspace.address if plan.workspace_bytes else 0,
            keys=keys.address if plan.keys_bytes else 0,
            guided=True,
        )
        gpu.launch(launch)
        got = gpu.downloaded(token)
        both = values.astype(np.float32)
        expected = oracle.sample(guided(both[:batch], both[batch:], GUIDANCE), params.at_step(0))
        if not np.array_equal(got, expected):
            raise QualityError(f"sample: got {got.tolist()}, the definition gives {expected.tolist()}; file a fault")
        launches.append(launch)
        kept += [logits, step, token]
        cases.append(values)
    return launches, kept, cases


def kernel_timings(gpu: Accelerator, limits: Limits, sizes: Sizes) -> Iterator[Timing]:
    for name in sizes.segments:
        n, top_k = SEGMENTS[name]
        n = sizes.num_tokens or n
        for batch in sizes.batches:
            launches, kept, cases = sampler_launches(gpu, batch, n, min(top_k, n))
            calls = [lambda launch=launch: gpu.launch(launch) for launch in launches]
            label = f"{name} B={batch}"
            yield timing(f"{label} sample", replayed_us(gpu, calls, sizes), launches[0].num_bytes, limits)
            del kept
            for peer, call in torch_peers(cases, min(top_k, n)):
                yield timing(f"{label} {peer}", called_us(call, sizes), launches[0].num_bytes, limits)
    yield solver_timing(gpu, limits, sizes)


def solver_timing(gpu: Accelerator, limits: Limits, sizes: Sizes) -> Timing:
    x, previous, e, model_input = (gpu.array((2, LATENTS), np.float32) for _ in range(4))
    table = gpu.uploaded(
        np.tile(np.array([0, 1, 1, 0.1, 0, 1], np.float32), (4 * (sizes.replays + 9) * sizes.launches, 1))
    )
    state = gpu.array((2,), np.uint32)
    launch = guidance_step(
        gpu.device.gpu,
        *(array.address for array in (x, previous, e, model_input, table, state)),
        dtype="float32",
        batch=1,
        num_elements=LATENTS,
        input_stride=LATENTS,
        guidance=GUIDANCE,
        is_guided=True,
    )
    return timing("guidance_step", replayed_us(gpu, [lambda: gpu.launch(launch)], sizes), launch.num_bytes, limits)


def torch_peers(cases: list[Any], top_k: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The same choice in PyTorch, eager and compiled, and in CuPy and FlashInfer, as far as they are installed."""
    torch = module_or_none("torch")
    if torch is None or not torch.cuda.is_available():
        return
    inputs = [torch.from_numpy(values).cuda() for values in cases]
    batch = len(inputs[0]) // 2

    def reference(logits: Any) -> Any:
        cond, uncond = torch.log_softmax(logits[:batch], -1), torch.log_softmax(logits[batch:], -1)
        scores = uncond + GUIDANCE * (cond - uncond)
        values, indices = torch.topk(scores, top_k)
        shares = torch.softmax(values.float(), -1)
        shares = torch.where(shares.cumsum(-1) - shares <= TOP_P, shares, 0.0)
        return indices.gather(-1, torch.multinomial(shares, 1))

    compiled = torch.compile(reference, mode="max-autotune-no-cudagraphs")
    for name, function in (("torch", reference), ("torch.compile", compiled)):
        yield name, in_turn(function, inputs)
    cupy = module_or_none("cupy")
    if cupy is not None:
        arrays = [cupy.from_dlpack(values) for values in inputs]
        yield "CuPy sort", in_turn(lambda logits: cupy.sort(logits[:batch], axis=-1), arrays)
    flashinfer = module_or_none("flashinfer")
    if flashinfer is not None:

        def fused(logits: Any) -> Any:
            scores = logits[batch:] + GUIDANCE * (logits[:batch] - logits[batch:])
            return flashinfer.sampling.top_k_top_p_sampling_from_logits(scores.float(), top_k, TOP_P)

        yield "FlashInfer", in_turn(fused, inputs)


def in_turn(function: Callable[[Any], Any], inputs: list[Any]) -> Callable[[], Any]:
    """Calls with one input after the other."""
    state = {"i": 0}

    def call() -> Any:
        state["i"] = (state["i"] + 1) % len(inputs)
        return function(inputs[state["i"]])

    return call


def module_or_none(name: str) -> Any:
    """A package, where it is installed."""
    try:
        return __import__(name)
    except ImportError:
        return None
