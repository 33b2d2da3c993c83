"""A module without its weights: shapes only, for tracing and counting at any size."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def hollow(module: nn.Module) -> nn.Module:
    """A copy of the tree of modules whose parameters and buffers have no values, on the device of the moment.

    Under `FakeTensorMode` they are fake; on the device `meta` they are meta tensors. The module stays as it is.
    """
    new = copy.copy(module)
    new._parameters = {
        name: None if p is None else nn.Parameter(_empty(p), requires_grad=False)
        for name, p in module._parameters.items()
    }
    new._buffers = {name: None if b is None else _empty(b) for name, b in module._buffers.items()}
    new._modules = {name: None if child is None else hollow(child) for name, child in module._modules.items()}
    return new


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)
