"""The samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.case import GUIDANCE, TOP_P, Case, expect_equal
from illume_kernels import oracle
from illume_kernels.guidance import guided
from illume_kernels.gumbel import sample_gumbel as gumbel_tokens
from illume_kernels.launch import Gpu, Launch, Segment
from illume_kernels.params import SampleParams
from illume_kernels.rows import rows_from_params
from illume_kernels.sample_plan import GUMBEL_WORKSPACE_BYTES, sample_gumbel, sample_plan
from illume_runtime.gpu.accelerator import Accelerator


def sample_case(gpu: Accelerator, batch: int, n: int, top_k: int, num_sets: int, facts: Gpu | None = None) -> Case:
    """`sample_cluster` or `sample_group`: guided, with top-k and top-p, of float16 logits; planned for `facts`."""
    plan = sample_plan(facts or gpu.device.gpu, batch, n)
    workspace, keys = (gpu.array((size,), np.uint8) for size in (plan.workspace_bytes, plan.keys_bytes))
    kept: list[Any] = [workspace, keys]

    def launch_of(segment: Segment, rows: int, step: int, token: int) -> Launch:
        return plan.launch(
            segment,
            rows,
            step,
            token,
            workspace=workspace.address if plan.workspace_bytes else 0,
            keys=keys.address if plan.keys_bytes else 0,
            guided=True,
        )

    params = SampleParams.broadcast(batch, top_k=top_k, top_p=TOP_P, request=np.arange(batch))
    return _token_case("sample", gpu, params, n, num_sets, kept, launch_of, oracle.sample)


def gumbel_case(gpu: Accelerator, batch: int, n: int, num_sets: int) -> Case:
    """`sample_gumbel`: guided, no filters, of float16 logits."""
    workspace = gpu.array((batch, GUMBEL_WORKSPACE_BYTES), np.uint8)

    def launch_of(segment: Segment, rows: int, step: int, token: int) -> Launch:
        gpu_facts = gpu.device.gpu
        return sample_gumbel(gpu_facts, batch, segment, rows, step, token, workspace.address, guided=True)

    params = SampleParams.broadcast(batch, request=np.arange(batch))
    return _token_case("sample_gumbel", gpu, params, n, num_sets, [workspace], launch_of, gumbel_tokens)


def _token_case(
    what: str,
    gpu: Accelerator,
    params: SampleParams,
    n: int,
    num_sets: int,
    kept: list[Any],
    launch_of: Callable[[Segment, int, int, int], Launch],
    definition: Callable[[NDArray[np.float32], SampleParams], NDArray[np.int64]],
) -> Case:
    batch = len(params)
    rows = gpu.uploaded(rows_from_params(params, guidance=GUIDANCE, uncond_row=np.arange(batch, 2 * batch)))
    kept.append(rows)
    launches, tokens, steps, logits = [], [], [], []
    for seed in range(num_sets):
        logits.append(logits_of(seed, batch, n))
        uploaded = gpu.uploaded(logits[-1])
        steps.append(gpu.array((batch,), np.uint32))
        tokens.append(gpu.array((batch,), np.int32))
        segment = Segment(uploaded.address, "float16", n, 0, n)
        launches.append(launch_of(segment, rows.address, steps[-1].address, tokens[-1].address))
        kept += [uploaded, steps[-1], tokens[-1]]

    def compare() -> None:
        for token, step, values in zip(tokens, steps, logits, strict=True):
            last = int(gpu.downloaded(step)[0]) - 1
            both = values.astype(np.float32)
            scores = guided(both[:batch], both[batch:], GUIDANCE)
            expected = definition(scores, params.at_step(last)).astype(np.int32)
            expect_equal(f"{what} at step {last}", gpu.downloaded(token), expected)

    def check() -> None:
        for launch in launches:
            gpu.launch(launch)
        compare()

    return Case(launches, check, compare, kept)


def logits_of(seed: int, batch: int, n: int) -> NDArray[np.float16]:
    """Both sides' logits [2 B, n], those with the user's text first."""
    return (np.random.default_rng(seed).standard_normal((2 * batch, n), np.float32) * 3).astype(np.float16)
