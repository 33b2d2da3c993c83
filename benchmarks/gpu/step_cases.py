"""The kernels around the samplers: embeddings, the diffusion's step, the step of the positions, the head."""

from __future__ import annotations

import numpy as np

from benchmarks.gpu.case import GUIDANCE, Case, expect_equal, repeated_rows
from illume_kernels.flow import guided_step
from illume_kernels.head import head_logits
from illume_kernels.step_launch import advance_step, gather_embedding, guidance_step, head_gemv
from illume_runtime.gpu.accelerator import Accelerator

GROUP = 128  # columns that share a scale in int4
CHECKED_TOKENS = 256  # at either end of a head's segment


def gather_case(gpu: Accelerator, kind: str, num_ids: int, width: int, batch: int, num_appended: int) -> Case:
    """`gather_embedding` for both sides."""
    values = repeated_rows(1, num_ids, width, kind)
    random = np.random.default_rng(2)
    scales = random.uniform(1e-3, 1, num_ids).astype(np.float32) if kind == "int8" else None
    tokens = random.integers(0, num_ids, batch).astype(np.int32)
    appended = random.integers(0, num_ids, num_appended).astype(np.int32)
    output = gpu.array((2, batch, 1 + num_appended, width), np.float32)
    table, token, behind = (gpu.uploaded(array) for array in (values, tokens, appended))
    scale = None if scales is None else gpu.uploaded(scales)
    launch = gather_embedding(
        table.address,
        token.address,
        behind.address,
        output.address,
        num_ids=num_ids,
        width=width,
        start=0,
        batch=batch,
        num_appended=num_appended,
        sides=2,
        kind=kind,
        scales=0 if scale is None else scale.address,
    )

    def check() -> None:
        gpu.launch(launch)
        ids = np.stack([np.concatenate(([one], appended)) for one in tokens])
        rows = values[ids].astype(np.float32)
        if scales is not None:
            rows = rows * scales[ids][..., None]
        expect_equal(f"gather_embedding {kind}", gpu.downloaded(output), np.stack((rows, rows)))

    return Case([launch], check, kept=[table, token, behind, output, scale])


def solver_case(gpu: Accelerator, num_elements: int, num_steps: int) -> Case:
    """`guidance_step` of Euler's method, guided, in float32; the table lasts for so many launches."""
    random = np.random.default_rng(3)
    latents, noise = (random.standard_normal((rows, num_elements)).astype(np.float32) for rows in (1, 2))
    x, e = gpu.uploaded(latents), gpu.uploaded(noise)
    previous, model_input = gpu.array((1, num_elements), np.float32), gpu.array((2, num_elements), np.float32)
    b, scale = np.float32(-0.25), np.float32(0.5)
    table = gpu.uploaded(np.tile(np.array([0, 1, 1, b, 0, scale], np.float32), (num_steps, 1)))
    state = gpu.array((2,), np.uint32)
    launch = guidance_step(
        gpu.device.gpu,
        *(array.address for array in (x, previous, e, model_input, table, state)),
        dtype="float32",
        batch=1,
        num_elements=num_elements,
        input_stride=num_elements,
        guidance=GUIDANCE,
        is_guided=True,
    )

    def check() -> None:
        gpu.launch(launch)
        expected, _ = guided_step(latents, noise[:1], noise[1:], GUIDANCE, None, b=float(b))
        expect_equal("guidance_step", gpu.downloaded(x), expected)
        expect_equal("guidance_step, its input", gpu.downloaded(model_input), np.repeat(scale * expected, 2, 0))

    return Case([launch], check, kept=[x, e, previous, model_input, table, state])


def advance_case(gpu: Accelerator, batch: int, num_slots: int) -> Case:
    """`advance_step` of guided pictures, one new token a step."""
    rows = 2 * batch
    tokens, lengths = np.arange(batch, dtype=np.int32), np.arange(rows, dtype=np.int64) + 100
    token, length = gpu.uploaded(tokens), gpu.uploaded(lengths)
    ring, count = gpu.array((num_slots, batch), np.int32), gpu.array((1,), np.uint32)
    positions = gpu.array((rows, 1), np.int64)
    addresses = [array.address for array in (token, ring, count, length, positions)]
    launch = advance_step(*addresses, batch=batch, num_slots=num_slots, rows=rows, num_new=1)

    def check() -> None:
        gpu.launch(launch)
        expect_equal("advance_step, its ring", gpu.downloaded(ring)[0], tokens)
        expect_equal("advance_step, its positions", gpu.downloaded(positions)[:, 0], lengths)
        expect_equal("advance_step, its lengths", gpu.downloaded(length), lengths + 1)

    return Case([launch], check, kept=[token, length, ring, count, positions])


def head_case(gpu: Accelerator, kind: str, n: int, width: int, num_rows: int, num_sets: int) -> Case:
    """`head_gemv` of guided float16 states; each set is a table of weights of its own."""
    values = repeated_rows(4, n, width, kind)
    hidden = np.random.default_rng(5).standard_normal((num_rows, width)).astype(np.float16)
    shape = {"int8": (n,), "int4": (n, width // GROUP)}.get(kind)
    scales = None if shape is None else np.random.default_rng(6).uniform(1e-3, 1e-2, shape).astype(np.float32)
    states, logits = gpu.uploaded(hidden), gpu.array((num_rows // 2, n), np.float32)
    scale = None if scales is None else gpu.uploaded(scales)
    weights = [gpu.uploaded(values, "a head's weights") for _ in range(num_sets)]
    launches = [
        head_gemv(
            table.address,
            0 if scale is None else scale.address,
            states.address,
            logits.address,
            kind=kind,
            group=GROUP,
            hidden_size=width,
            dtype="float16",
            num_rows=num_rows,
            vocabulary=n,
            start=0,
            num_tokens=n,
            guidance=GUIDANCE,
        )
        for table in weights
    ]

    def check() -> None:
        ends = np.unique(np.r_[: min(n, CHECKED_TOKENS), max(0, n - CHECKED_TOKENS) : n])
        rows = values[ends]
        if kind == "int4":  # the low half of a byte is the earlier column
            rows = np.stack((rows & 15, rows >> 4), axis=-1).reshape(len(ends), width).astype(np.int8) - 8
        by_row = None if scales is None else scales[ends]
        expected = head_logits(
            rows.astype(np.float32),
            hidden.astype(np.float32),
            token_scales=by_row if kind == "int8" else None,
            group_scales=by_row if kind == "int4" else None,
            guidance=GUIDANCE,
        )
        for launch in launches:
            gpu.launch(launch)
            expect_equal(f"head_gemv {kind}", gpu.downloaded(logits)[:, ends], expected)

    return Case(launches, check, kept=[states, logits, scale, *weights])
