"""FLOPs of a module, counted while it runs once.

Counted are products and convolutions, a multiplication with its addition as two; what norms, activations and
additions take is left out, as is usual.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode


def flops_of(function: Callable[..., object], *inputs: Tensor) -> int:
    """FLOPs of one call of `function`."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        function(*inputs)
    return int(counter.get_total_flops())


def flops_of_shapes(function: Callable[..., object], *shapes: tuple[int, ...]) -> int:
    """FLOPs of one call with float32 inputs of these shapes; nothing is computed, whatever the size."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), counter:
        function(*(torch.zeros(shape) for shape in shapes))
    return int(counter.get_total_flops())
