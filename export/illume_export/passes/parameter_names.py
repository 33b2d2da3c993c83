"""Rule: an initializer is called as the parameter or buffer whose values it holds, `.T` added if it is transposed.

The exporter names what it folded (`val_95`) by counting, so that a name would change with any edit of a graph.
Calibration scales and lowering passes find weights by name.
"""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir
from torch import nn

SMALLEST_ELEMENTS = 2  # a single number is a constant of the graph, not a weight


def parameter_names(model: ir.Model, module: nn.Module) -> None:
    """Rename the initializers of `model` in place; ones that match no tensor of `module` stay as they are."""
    names: dict[str, str] = {}
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in tensors:
        array = tensor.detach().cpu().numpy()
        names.setdefault(_digest(array), name)
        if array.ndim == 2:
            names.setdefault(_digest(array.T), f"{name}.T")
    taken: set[str] = set()
    for value in list(model.graph.initializers.values()):
        if value.const_value is None or value.const_value.size < SMALLEST_ELEMENTS:
            continue
        found = names.get(_digest(value.const_value.numpy()))
        if found is not None and found not in taken:
            taken.add(found)
            _rename(model, value, found)


def _rename(model: ir.Model, value: ir.Value, name: str) -> None:
    if value.name == name:
        return
    assert value.name is not None
    del model.graph.initializers[value.name]
    value.name = name
    model.graph.initializers[name] = value


def _digest(array: np.ndarray) -> str:
    data = np.ascontiguousarray(array)
    return hashlib.sha256(f"{data.dtype} {data.shape}".encode() + data.tobytes()).hexdigest()
