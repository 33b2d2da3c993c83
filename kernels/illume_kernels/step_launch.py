"""Launches of what stands around the samplers: head, embeddings of the next tokens, step of the diffusion loop."""

from __future__ import annotations

import numpy as np

from illume_kernels.launch import DTYPES, NUM_BYTES, Gpu, Launch

WEIGHT_KINDS = {"float16": 0, "bfloat16": 1, "int8": 2, "int4": 3}
"""Codes of the formats of a head's weights."""

TABLE_KINDS = {**DTYPES, "int8": 3}
"""Codes of the formats of a table of embeddings."""


def guidance_step(
    gpu: Gpu,
    x: int,
    m_previous: int,
    e: int,
    model_input: int,
    table: int,
    state: int,
    *,
    dtype: str,
    batch: int,
    num_elements: int,
    input_stride: int,
    guidance: float,
    is_guided: bool,
) -> Launch:
    """One step of the diffusion loop on device addresses.

    x and m_previous float32 [B, n], updated in place; e dtype [sides B, n], conditional rows first; model_input dtype
    [sides B, input_stride], of which the first n of each row are written; table float32 [steps, 6] of p, q, a, b, c and
    the scale of the next input; state uint32 [2], zero before the first step. ValueError where the input is too short.
    """
    if dtype not in DTYPES or input_stride < num_elements or batch <= 0 or num_elements <= 0:
        raise ValueError(
            f"guidance_step: got {batch} rows of {num_elements} {dtype} elements into rows of {input_stride}, expected "
            f"rows at least as long, of {', '.join(DTYPES)}"
        )
    sides = 2 if is_guided else 1
    count = batch * num_elements
    return Launch(
        "guidance_step",
        (max(1, min(-(-count // 256), 4 * gpu.num_processors)), 1, 1),
        256,
        1,
        0,
        (
            *(np.uint64(a) for a in (x, m_previous, e, model_input)),
            np.uint32(DTYPES[dtype]),
            np.uint32(batch),
            np.uint64(num_elements),
            np.uint64(input_stride),
            np.float32(guidance),
            np.uint32(sides),
            np.uint64(table),
            np.uint64(state),
        ),
        count * (16 + 2 * sides * NUM_BYTES[dtype]),
    )


def gather_embedding(
    table: int,
    token: int,
    appended: int,
    output: int,
    *,
    num_ids: int,
    width: int,
    start: int,
    batch: int,
    num_appended: int,
    sides: int,
    kind: str = "float32",
    scales: int = 0,
) -> Launch:
    """Embeddings of each row's token and the A = num_appended ids behind it: output float32 [sides, B, 1 + A, width].

    table [num_ids, width] of `kind`, int8 with scales float32 [num_ids] (else 0); token int32 [B] in the segment that
    begins at `start`; appended int32 [A]. Token -1 and ids outside the table give zeros. ValueError for an
    unknown kind, an empty table, and scales that are missing or too many.
    """
    if kind not in TABLE_KINDS or (scales != 0) != (kind == "int8"):
        raise ValueError(
            f"gather_embedding: got a table of {kind} with scales at {scales:#x}, expected one of "
            f"{', '.join(TABLE_KINDS)}, int8 alone with scales"
        )
    if num_ids <= 0 or width <= 0 or batch <= 0 or num_appended < 0 or sides <= 0:
        raise ValueError(
            f"gather_embedding: got a table of {num_ids} rows of {width}, {batch} tokens with {num_appended} behind "
            f"each, and {sides} sides, expected one of each at least"
        )
    rows = batch * (1 + num_appended)
    return Launch(
        "gather_embedding",
        (1 + num_appended, batch, sides),
        256,
        1,
        0,
        (
            np.uint64(table),
            np.uint32(TABLE_KINDS[kind]),
            np.uint64(scales),
            np.uint32(num_ids),
            np.uint32(width),
            np.uint64(token),
            np.uint32(start),
            np.uint64(appended),
            np.uint64(output),
        ),
        rows * width * (NUM_BYTES.get(kind, 1) + 4 * sides),
    )


def advance_step(
    token: int,
    ring: int,
    count: int,
    length: int,
    positions: int,
    *,
    batch: int,
    num_slots: int,
    rows: int,
    num_new: int,
) -> Launch:
    """What stands between two token steps, on device addresses.

    token int32 [B] goes to slot count modulo num_slots of ring int32 [num_slots, B], count uint32 [1] grows by 1;
    positions int64 [rows, num_new] become those behind length int64 [rows], which grows by num_new (0: neither).
    ValueError for an empty batch or ring.
    """
    if batch <= 0 or num_slots <= 0 or rows <= 0 or num_new < 0:
        raise ValueError(
            f"advance_step: got {batch} tokens, a ring of {num_slots}, {rows} rows of {num_new}, expected one at least"
        )
    return Launch(
        "advance_step",
        (1, 1, 1),
        256,
        1,
        0,
        (
            np.uint64(token),
            np.uint64(ring),
            np.uint32(batch),
            np.uint32(num_slots),
            np.uint64(count),
            np.uint64(length),
            np.uint64(positions),
            np.uint32(rows),
            np.uint32(num_new),
        ),
        8 * batch + 8 * rows * (2 + num_new),
    )


def head_gemv(
    weights: int,
    scales: int,
    hidden: int,
    logits: int,
    *,
    kind: str,
    group: int,
    hidden_size: int,
    dtype: str,
    num_rows: int,
    vocabulary: int,
    start: int,
    num_tokens: int,
    guidance: float | None,
) -> Launch:
    """Logits float32 [num_rows, num_tokens] of a segment of the vocabulary; with guidance [num_rows / 2, num_tokens].

    weights [vocabulary, hidden_size] of `kind`; scales float32, int8 [vocabulary], int4 [vocabulary, hidden_size /
    group] (else 0); hidden [num_rows, hidden_size] of dtype, conditional rows first. ValueError where sizes do not fit.
    """
    if not 0 < num_rows <= 16:
        raise ValueError(f"head_gemv: got {num_rows} rows, expected 1 to 16; use a matrix product for more")
    if kind not in WEIGHT_KINDS or dtype not in ("float16", "bfloat16"):
        raise ValueError(
            f"head_gemv: got {kind} weights and {dtype} hidden, expected weights of {', '.join(WEIGHT_KINDS)} "
            "and hidden of float16 or bfloat16"
        )
    if hidden_size % 8 != 0 or (kind == "int4" and (group % 8 != 0 or group <= 0 or hidden_size % group != 0)):
        raise ValueError(
            f"head_gemv: got width {hidden_size} in groups of {group}, expected a multiple of 8, and of the group"
        )
    if not (start >= 0 and 0 < num_tokens <= vocabulary - start):
        raise ValueError(
            f"head_gemv: got tokens {start} to {start + num_tokens} of {vocabulary}, expected a segment inside the "
            "vocabulary; take the bounds from it"
        )
    if guidance is not None and num_rows % 2 != 0:
        raise ValueError(f"head_gemv: got {num_rows} rows with guidance, expected conditional and unconditional ones")
    size, tokens_per_warp = next(pair for pair in ((2, 4), (8, 2), (16, 1)) if num_rows <= pair[0])
    bits = {"float16": 16, "bfloat16": 16, "int8": 8, "int4": 4}[kind]
    return Launch(
        f"head_gemv_w{bits}_{size}",
        (-(-num_tokens // (8 * tokens_per_warp)), 1, 1),
        256,
        1,
        0,
        (
            np.uint64(weights),
            np.uint64(scales),
            np.uint32(WEIGHT_KINDS[kind]),
            np.uint32(group),
            np.uint32(hidden_size),
            np.uint64(hidden),
            np.uint32(DTYPES[dtype]),
            np.uint32(num_rows),
            np.uint32(start),
            np.uint32(num_tokens),
            np.float32(1.0 if guidance is None else guidance),
            np.uint32(guidance is not None),
            np.uint64(logits),
        ),
        num_tokens * hidden_size * bits // 8,
    )
