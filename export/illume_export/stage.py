"""A stage to export: what is traced, its borders, and how it is compared with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from illume_runtime.manifest import Flops, TensorSpec

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], dict[str, np.ndarray]]

TYPES = {"float32": torch.float32, "int64": torch.int64}


@dataclass(frozen=True, slots=True)
class Stage:
    """One graph of a bundle.

    `module` takes the inputs in order and gives back the outputs in order. A dimension is a size, a name (`Y`) or a
    multiple of one (`16*Y`); of outputs any expression of names will do. `errors(run)` sends real inputs through
    `run` and gives back the largest absolute error of each case against PyTorch; one above `tolerance` refuses it.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    flops: Flops
    errors: Callable[[Run], list[float]]
    tolerance: float


def factor_and_name(dimension: str) -> tuple[int, str]:
    """16 and Y of a dimension `16*Y`; 1 and Y of `Y`."""
    factor, star, name = dimension.rpartition("*")
    return (int(factor), name) if star else (1, name)


def example_of(stage: Stage, sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
    """Zeros in the shapes of the stage's inputs, with the named dimensions at `sizes`."""

    def size_of(dimension: int | str) -> int:
        if isinstance(dimension, int):
            return dimension
        factor, name = factor_and_name(dimension)
        return factor * sizes[name]

    return tuple(torch.zeros([size_of(n) for n in spec.shape], dtype=TYPES[spec.dtype]) for spec in stage.inputs)
