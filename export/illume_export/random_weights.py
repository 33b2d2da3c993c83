"""Weights of no model, for one of real size where the real ones are not at hand: each read makes the same values anew.

All are cut from one block of normal numbers whose length is prime, so that no two rows of a matrix are alike. A matrix
or kernel has a deviation of one over the root of what it sums over, a vector is ones (weights of norms) or zeros.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from math import prod

import torch
from torch import Tensor, nn

from illume_export.deferred import Deferred

BLOCK = 1_048_573  # a prime
SEED = 0


def fill_with_random(module: nn.Module, dtype: torch.dtype) -> None:
    """Give every tensor of a module that was made on the meta device deferred values of this type."""
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        state[name] = random_tensor(name, tuple(tensor.shape), dtype)
    module.load_state_dict(state, assign=True)


def random_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Deferred:
    """A float32 tensor whose values are stored as `dtype`."""
    digest = hashlib.sha256(f"{SEED} {name} {shape} {dtype}".encode()).digest()

    def read() -> Tensor:
        if len(shape) < 2:
            return torch.full(shape, float(name.endswith("weight")), dtype=dtype)
        scaled = (_block() * prod(shape[1:]) ** -0.5).to(dtype)
        values = torch.empty(prod(shape), dtype=dtype)
        at, offset = 0, int.from_bytes(digest[:4], "little") % BLOCK
        while at < len(values):
            part = scaled[offset : offset + len(values) - at]
            values[at : at + len(part)] = part
            at, offset = at + len(part), 0
        return values.view(shape)

    return Deferred(shape, torch.float32, read, lambda: digest)


@lru_cache(maxsize=1)
def _block() -> Tensor:
    return torch.randn(BLOCK, generator=torch.Generator().manual_seed(SEED))
