"""Bytes of activations that a graph holds at once, from the shapes of its values: nothing is run.

Counted is what lives between nodes in the order of the file: a value from the node that makes it to its last use. An
elementwise node writes over an input that ends with it; a view costs nothing; the cache is written in place. Attention
holds its scores. What a kernel takes for itself besides is not counted.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from math import prod

import onnx_ir as ir

from illume_runtime.errors import InvalidBundleError

VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "TensorScatter"}
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Sigmoid", "Erf", "Clip", "Sqrt", "Where", "Softmax", "Gelu", "Swish"}
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}


def activation_bytes(graph: ir.Graph, sizes: Mapping[str, int]) -> int:
    """The largest sum over the nodes, inputs of the graph left out. Raises InvalidBundleError for an unknown size."""
    owner: dict[int, ir.Value] = {}  # a value -> whose memory it lies in
    ends: dict[int, int] = {}  # the owner of memory -> the last node that needs it
    nodes = [node for node in graph if not _is_cast_of_weight(node)]

    def memory_of(value: ir.Value) -> ir.Value:
        return owner.get(id(value), value)

    for i, node in enumerate(nodes):
        if node.op_type in VIEWS and node.inputs[0] is not None:
            owner[id(node.outputs[0])] = memory_of(node.inputs[0])
        for value in node.inputs:
            if value is not None:
                ends[id(memory_of(value))] = i
    for value in graph.outputs:
        ends[id(memory_of(value))] = len(nodes)
    live: dict[int, int] = {}
    largest = 0
    for i, node in enumerate(nodes):
        made = {id(value): _num_bytes(value, sizes) for value in node.outputs if id(value) not in owner}
        ending = [key for key in live if ends.get(key, i) <= i]
        if node.op_type in ELEMENTWISE:
            for key in ending:
                if made and live[key] == next(iter(made.values())):
                    del live[key]  # its memory becomes that of the output
                    break
        live |= made
        largest = max(largest, sum(live.values()) + _scores(node, sizes))
        live = {key: size for key, size in live.items() if ends.get(key, i) > i}
    return largest


def size_of(dimension: int | str, sizes: Mapping[str, int]) -> int:
    """A dimension, which may be an expression of names. Raises InvalidBundleError."""
    if isinstance(dimension, int):
        return dimension
    try:
        return _evaluated(ast.parse(dimension, mode="eval").body, sizes)
    except (SyntaxError, KeyError, TypeError) as error:
        raise InvalidBundleError(f"a graph has the dimension {dimension!r}, which follows from no input") from error


def _evaluated(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_evaluated(node.left, sizes), _evaluated(node.right, sizes))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Max", "Min", "max", "min"):
        choose = max if node.func.id.lower() == "max" else min
        return choose(_evaluated(argument, sizes) for argument in node.args)
    raise KeyError(ast.dump(node))


def _num_bytes(value: ir.Value, sizes: Mapping[str, int]) -> int:
    if value.shape is None or value.dtype is None:
        return 0
    if any(not isinstance(dim, int) and dim.value is None for dim in value.shape):
        maker = value.producer()
        if maker is not None and maker.op_type in ("Reshape", "Transpose") and maker.inputs[0] is not None:
            return _num_bytes(maker.inputs[0], sizes)  # of unknown shape, but as large
    dims = [dim if isinstance(dim, int) else size_of(str(dim.value), sizes) for dim in value.shape]
    return prod(dims) * value.dtype.itemsize.__ceil__()


def _scores(node: ir.Node, sizes: Mapping[str, int]) -> int:
    """The scores of an attention [B, N, T, S], float32."""
    if node.op_type != "Attention":
        return 0
    query, key = node.inputs[:2]
    assert query is not None
    assert key is not None
    shapes = [[d if isinstance(d, int) else size_of(str(d.value), sizes) for d in v.shape or ()] for v in (query, key)]
    return 4 * prod(shapes[0][:3]) * shapes[1][2]


def _is_cast_of_weight(node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    return node.op_type == "Cast" and source is not None and source.is_initializer()
