"""The weights of a graph, written one at a time: into the file itself, or beside it, where they can be mapped.

A matrix is stored in half precision if that loses nothing of it, which is so where a checkpoint holds it in that type;
a Cast brings it back to float32. What was folded from several weights stays float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from illume_export.deferred import values_of
from illume_runtime.errors import InvalidCheckpointError

ALIGNMENT = 4096  # of a tensor in its file: a page, so that mapped weights begin at one
HALF_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
IR_TYPES = {torch.float32: ir.DataType.FLOAT, torch.float16: ir.DataType.FLOAT16, torch.bfloat16: ir.DataType.BFLOAT16}
CHUNK = 1 << 24  # elements compared or written at once


def nominal_bytes(tensor: Tensor, precision: str) -> int:
    """What a tensor takes if no weight needs more than the precision."""
    return tensor.numel() * (2 if precision in HALF_TYPES and tensor.ndim >= 2 else tensor.element_size())


def store_weights(model: ir.Model, weights: dict[str, Tensor], path: Path, precision: str, *, beside: bool) -> int:
    """Give the initializers of `model` their values and write the file; the bytes of the weights, as stored.

    `beside` puts them into `<path>.data`. Raises InvalidCheckpointError for a weight that is not finite.
    """
    total = 0
    data = path.with_name(f"{path.name}.data")
    with open(data if beside else "/dev/null", "wb") as file:  # noqa: PTH123 - one of two places
        for name, tensor in weights.items():
            stored = _stored(name, tensor, precision)
            total += stored.numel() * stored.element_size()
            value = model.graph.initializers[name]
            value.const_value = _beside(file, data, value, stored) if beside else _inside(name, stored)
            if stored.dtype in HALF_TYPES.values():
                _cast(model.graph, value, IR_TYPES[stored.dtype])
            del stored
    ir.save(model, path)
    return total


def stored_array(tensor: Tensor, precision: str) -> np.ndarray:
    """A table of the host: float16 if the precision is that and nothing is lost, else as it is."""
    values = values_of(tensor.detach())
    half = _half(values, "float16") if precision == "float16" else None
    return (values if half is None else half).contiguous().numpy()


def _stored(name: str, tensor: Tensor, precision: str) -> Tensor:
    values = values_of(tensor.detach())
    if values.is_floating_point() and not all(bool(torch.isfinite(part).all()) for part in _parts(values)):
        raise InvalidCheckpointError(f"NaN or infinity in {name}; use a checkpoint from before the training diverged")
    half = _half(values, precision) if values.ndim >= 2 else None
    return (values if half is None else half).contiguous()


def _half(values: Tensor, precision: str) -> Tensor | None:
    """The values in half precision; None where that would change one."""
    if precision not in HALF_TYPES or values.dtype != torch.float32:
        return None
    half = torch.empty(values.shape, dtype=HALF_TYPES[precision])
    for source, target in zip(_parts(values), _parts(half), strict=True):
        target.copy_(source)
        if not torch.equal(target.float(), source):
            return None
    return half


def _parts(values: Tensor) -> tuple[Tensor, ...]:
    """Consecutive rows of some millions of elements."""
    if values.ndim == 0:
        return (values,)
    rows = max(1, CHUNK * len(values) // max(1, values.numel()))
    return torch.split(values, rows)


def _inside(name: str, stored: Tensor) -> ir.TensorProtocol:
    bits = stored.view(torch.uint16).numpy() if stored.dtype == torch.bfloat16 else stored.numpy()
    return ir.Tensor(bits, dtype=IR_TYPES.get(stored.dtype, ir.DataType.INT64), name=name)


def _beside(file: BinaryIO, data: Path, value: ir.Value, stored: Tensor) -> ir.ExternalTensor:
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    offset, length = file.tell(), stored.numel() * stored.element_size()
    file.write(stored.flatten().view(torch.uint8).numpy().data)
    dtype = IR_TYPES.get(stored.dtype, ir.DataType.INT64)
    shape = ir.Shape(list(stored.shape))
    return ir.ExternalTensor(data.name, offset, length, dtype, shape=shape, name=value.name or "", base_dir=data.parent)


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> None:
    """Put a Cast to float32 between a weight and its users, right before the first one."""
    users = list(value.uses())
    value.type, value.dtype = ir.TensorType(dtype), dtype
    node = ir.node("Cast", [value], attributes={"to": ir.DataType.FLOAT})
    (output,) = node.outputs
    output.name, output.shape = f"{value.name}.float32", value.shape
    output.type = ir.TensorType(ir.DataType.FLOAT)
    order = {id(other): i for i, other in enumerate(graph)}
    first = min((user.node for user in users), key=lambda other: order[id(other)])
    for user in users:
        user.node.replace_input_with(user.idx, output)
    graph.insert_before(first, node)
