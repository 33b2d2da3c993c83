"""Launches of the samplers: how a batch is spread over a GPU, and the device memory that this needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from illume_kernels.launch import Gpu, Launch, Segment

_CTA_BYTES = 18_096  # CtaMemory
_GROUP_BYTES = 74_880  # GroupMemory
_SLOT_BYTES = 16
_BINS_BYTES = 9 * 2048 * 4
_MAX_GROUP = 64
_MAX_CLUSTER = 8  # more is not portable
_TOKENS_PER_CTA = 4096  # below this another CTA costs more than it saves
GUMBEL_WORKSPACE_BYTES = 16
"""Of one row; zeroed once."""


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """How a batch is sampled on one GPU, and the device memory it needs: both zeroed once, then left as found.

    workspace_bytes and keys_bytes may be 0: then the address is 0.
    """

    symbol: str
    batch: int
    num_tokens: int
    group: int
    block: int
    shared_bytes: int
    workspace_bytes: int
    keys_bytes: int

    def launch(
        self,
        segment: Segment,
        rows: int,
        step: int,
        token: int,
        *,
        workspace: int = 0,
        keys: int = 0,
        seen: int = 0,
        banned: int = 0,
        chance: int = 0,
        trace: int = 0,
        guided: bool = False,
    ) -> Launch:
        """The launch on device addresses: rows ROW [B], step uint32 [B] (advanced by 1), token int32 [B].

        Optional, 0 where absent: seen uint32 [B, ceil(n / 32)] (read by the penalty, the token's bit is set), banned
        uint32 [ceil(n / 32)], chance float32 [B] (probability of the token), trace TRACE [B]. ValueError where the
        segment is not the plan's or memory that the plan asks for is missing.
        """
        if segment.num_tokens != self.num_tokens:
            raise ValueError(
                f"sample: the segment has {segment.num_tokens} tokens, the plan {self.num_tokens}; make a plan for each"
            )
        for name, address, num_bytes in (
            ("workspace", workspace, self.workspace_bytes),
            ("keys", keys, self.keys_bytes),
        ):
            if (address != 0) != (num_bytes != 0):
                raise ValueError(
                    f"sample: got {name} at address {address:#x}, expected {num_bytes} bytes; "
                    "allocate what the plan says"
                )
        memory = (np.uint64(keys), np.uint64(workspace)) if self.symbol == "sample_group" else (np.uint64(keys),)
        return Launch(
            self.symbol,
            (self.group, self.batch, 1),
            self.block,
            self.group if self.symbol == "sample_cluster" else 1,
            self.shared_bytes,
            (
                *segment.arguments,
                np.uint64(rows),
                np.uint64(step),
                np.uint64(seen),
                np.uint64(banned),
                *memory,
                np.uint64(token),
                np.uint64(chance),
                np.uint64(trace),
            ),
            segment.num_bytes(self.batch * (2 if guided else 1)),
        )


def sample_plan(gpu: Gpu, batch: int, num_tokens: int) -> SamplePlan:
    """The plan for `batch` rows: a cluster of CTAs for each row from SM 9.0, else a group that fits the GPU at once.

    ValueError for a GPU before SM 7.5, or where the batch or the segment is empty.
    """
    if gpu.compute_capability < (7, 5):
        raise ValueError(
            f"sample: got compute capability {gpu.compute_capability}, expected (7, 5) or later; use the CPU"
        )
    if batch <= 0 or num_tokens <= 0:
        raise ValueError(f"sample: got {batch} rows of {num_tokens} tokens, expected at least one of each")
    is_cluster = gpu.compute_capability >= (9, 0)
    most = _MAX_CLUSTER if is_cluster else min(_MAX_GROUP, max(gpu.num_processors // batch, 1))
    group = max(1, min(most, -(-num_tokens // _TOKENS_PER_CTA)))
    group = 1 << (group.bit_length() - 1)
    return plan_of(gpu, batch, num_tokens, group=group, block=512 if num_tokens >= 2048 else 256)


def plan_of(gpu: Gpu, batch: int, num_tokens: int, *, group: int, block: int) -> SamplePlan:
    """The plan with `group` CTAs a row (in a cluster a power of two) of `block` threads (a power of two from 32)."""
    is_cluster = gpu.compute_capability >= (9, 0)
    shared = _CTA_BYTES + (_SLOT_BYTES + _BINS_BYTES // group if is_cluster else 0)
    keys = _keys_per_cta(num_tokens, group) * 4
    fits = shared + keys <= gpu.shared_bytes
    return SamplePlan(
        "sample_cluster" if is_cluster else "sample_group",
        batch,
        num_tokens,
        group,
        block,
        shared + (keys if fits else 0),
        0 if is_cluster else _GROUP_BYTES * batch,
        0 if fits else keys * group * batch,
    )


def sample_gumbel(
    gpu: Gpu,
    batch: int,
    segment: Segment,
    rows: int,
    step: int,
    token: int,
    workspace: int,
    *,
    seen: int = 0,
    banned: int = 0,
    guided: bool = False,
) -> Launch:
    """One pass without top-k, top-p and min-p; addresses as in SamplePlan.launch, workspace [B, 16] zeroed bytes."""
    group = max(1, min(gpu.num_processors // batch, -(-segment.num_tokens // _TOKENS_PER_CTA)))
    return Launch(
        "sample_gumbel",
        (group, batch, 1),
        512,
        1,
        32 * 8,
        (*segment.arguments, *(np.uint64(a) for a in (rows, step, seen, banned, workspace, token))),
        segment.num_bytes(batch * (2 if guided else 1)),
    )


def _keys_per_cta(num_tokens: int, group: int) -> int:
    return (-(-num_tokens // group) + 7) // 8 * 8
