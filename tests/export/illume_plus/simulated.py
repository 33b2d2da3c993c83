"""Simulated quantization in PyTorch: a plain module whose every Linear and Conv2d rounds as a recipe says.

The module runs as it is; this mode stands between it and `linear` and `conv2d`, which it tells apart by their weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

TIE = 1e-3  # steps: as near to the middle of two integers as float32 on two machines may differ


@dataclass
class Seen:
    """A layer that ran: its kind, and the largest magnitudes and values of what went in and came out."""

    kind: str
    largest_input: float
    largest_output: float
    inputs: Tensor


@dataclass
class Simulated(TorchFunctionMode):
    """Rounds the layers of a module, all symmetric, weights per output channel and activations per tensor.

    `kept` layers are not rounded, `weight_only` ones in their weights alone. `steps` are the scales of activations,
    `integers` what the graph rounded them to: where a number lies in the middle of two, either is right, and the
    graph's is taken. Both are by layer and side (`q_proj.input`). Without steps nothing is rounded.
    """

    names: Mapping[int, str]
    kept: Collection[str] = ()
    weight_only: Collection[str] = ()
    steps: Mapping[str, float] | None = None
    integers: Mapping[str, np.ndarray] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    ties: int = 0
    rounded: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = {F.linear: "linear", F.conv2d: "conv"}.get(func)
        if kind is None:
            return func(*args, **(kwargs or {}))
        x, weight, *rest = args
        name = self.names[weight.data_ptr()]
        quantized = self.steps is not None and name not in self.kept
        inputs = x.clone()
        if quantized:
            weight = weights_rounded(weight)
            if name not in self.weight_only:
                x = self._rounded(x, f"{name}.input")
        y = func(x, weight, *rest, **(kwargs or {}))
        self.seen[name] = Seen(kind, float(inputs.abs().max()), float(y.abs().max()), inputs)
        if quantized and kind == "conv" and name not in self.weight_only:
            y = self._rounded(y, f"{name}.output")
        return y

    def _rounded(self, x: Tensor, side: str) -> Tensor:
        assert self.steps is not None
        step = torch.tensor(self.steps[side])
        exact = x / step
        integers = exact.round().clamp(-128, 127)
        of_graph = torch.from_numpy(self.integers[side].astype(np.float32)).view(x.shape)
        other = integers != of_graph
        middle = ((integers + of_graph) / 2 - exact).abs()
        assert ((integers - of_graph).abs() <= 1).all(), side
        assert (middle[other] <= TIE).all(), (side, float(middle[other].max()))
        self.ties += int(other.sum())
        self.rounded += x.numel()
        return of_graph * step


def weights_rounded(weight: Tensor) -> Tensor:
    """Int8 with a scale for each output channel, the first axis in PyTorch."""
    largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    steps = largest / torch.tensor(127.0)
    return (weight / steps).round().clamp(-127, 127) * steps


def names_of_weights(module: nn.Module) -> dict[int, str]:
    """The layer of each weight, by the place of its numbers."""
    return {tensor.data_ptr(): name.removesuffix(".weight") for name, tensor in module.named_parameters()}
