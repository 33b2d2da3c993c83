"""Rule: what only moves a weight's numbers (Transpose, Reshape) is done once, at export.

A transposed matrix is called as the weight with `.T` behind it. A backend would do the same while loading, on a copy in
memory: then weights could not be mapped from disk.
"""

from __future__ import annotations

import onnx_ir as ir
from torch import Tensor

Weights = dict[str, Tensor]


def moved_weights(model: ir.Model, weights: Weights) -> None:
    """Replace such nodes of `model` by initializers, and their tensors in `weights`, both in place."""
    graph = model.graph
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if source is None or source.name not in weights or not source.is_initializer():
            continue
        moved = _moved(node, weights[source.name])
        if moved is None:
            continue
        tensor, suffix = moved
        name = f"{source.name}{suffix}"
        (old,) = node.outputs
        old.replace_all_uses_with(_initializer(graph, name, tensor, weights))
        graph.remove(node, safe=True)
    for value in list(graph.initializers.values()):
        if value.name in weights and not value.uses() and not value.is_graph_output():
            del graph.initializers[value.name]
            del weights[value.name]


def _moved(node: ir.Node, tensor: Tensor) -> tuple[Tensor, str] | None:
    if node.op_type == "Transpose":
        permutation = node.attributes["perm"].as_ints()
        return tensor.permute(*permutation), ".T" if tensor.ndim == 2 else f".{''.join(map(str, permutation))}"
    if node.op_type == "Reshape":
        target = node.inputs[1]
        if target is not None and target.const_value is not None:
            sizes = [int(n) for n in target.const_value.numpy()]
            return tensor.reshape(sizes), f".{'x'.join(map(str, sizes))}"
    return None


def _initializer(graph: ir.Graph, name: str, tensor: Tensor, weights: Weights) -> ir.Value:
    if name not in graph.initializers:
        value = ir.Value(name=name, shape=ir.Shape(list(tensor.shape)), type=ir.TensorType(ir.DataType.FLOAT))
        graph.initializers[name] = value
        weights[name] = tensor
    return graph.initializers[name]
