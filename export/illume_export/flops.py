"""FLOPs of a module, counted from shapes.

Counted are products and convolutions, a multiplication with its addition as two; what norms, activations and
additions take is left out, as is usual.
"""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from illume_export.hollow import hollow


def flops_of_shapes(module: nn.Module, *shapes: tuple[int, ...]) -> int:
    """FLOPs of one call with float32 inputs of these shapes; nothing is computed, whatever the size."""
    counter = FlopCounterMode(display=False)
    with FakeTensorMode(), torch.no_grad(), counter:
        hollow(module)(*(torch.zeros(shape) for shape in shapes))
    return int(counter.get_total_flops())
