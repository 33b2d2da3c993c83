"""Bytes of activations that a graph holds at once, from the shapes of its values: nothing is run.

Counted is what lives between nodes in the order of the file: a value from the node that makes it to its last use. An
elementwise node writes over an input that ends with it; a view costs nothing; the cache is written in place. Attention
holds its scores twice; group norm is computed in parts, which are there beside its output. What other kernels take for
themselves is not counted.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from math import prod

from illume_runtime.errors import InvalidBundleError
from illume_runtime.onnx_graph import Graph, Node

VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "TensorScatter"}
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Sigmoid", "Erf", "Clip", "Sqrt", "Where", "Softmax", "Gelu", "Swish"}
PARTS = {"GroupNormalization": 2}  # times the output
AS_LARGE = {"Reshape", "Transpose"}
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}


def activation_bytes(graph: Graph, sizes: Mapping[str, int]) -> int:
    """The largest sum over the nodes, inputs of the graph left out. Raises InvalidBundleError for an unknown size."""
    owner: dict[str, str] = {}  # a value -> whose memory it lies in
    ends: dict[str, int] = {}  # the owner of memory -> the last node that needs it
    nodes = [node for node in graph.nodes if node.op_type != "Cast" or node.inputs[0] not in graph.initializers]
    makers = {name: node for node in nodes for name in node.outputs}
    for i, node in enumerate(nodes):
        if node.op_type in VIEWS:
            owner[node.outputs[0]] = owner.get(node.inputs[0], node.inputs[0])
        for name in filter(None, node.inputs):
            ends[owner.get(name, name)] = i
    for name in graph.outputs:
        ends[owner.get(name, name)] = len(nodes)
    live: dict[str, int] = {}
    largest = 0
    for i, node in enumerate(nodes):
        made = {
            name: _num_bytes(graph, makers, name, sizes) for name in filter(None, node.outputs) if name not in owner
        }
        ending = [name for name in live if ends.get(name, i) <= i]
        if node.op_type in ELEMENTWISE:
            for name in ending:
                if made and live[name] == next(iter(made.values())):
                    del live[name]  # its memory becomes that of the output
                    break
        live |= made
        parts = PARTS.get(node.op_type, 0) * sum(made.values())
        largest = max(largest, sum(live.values()) + _scores(graph, node, sizes) + parts)
        live = {name: size for name, size in live.items() if ends.get(name, i) > i}
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


def _num_bytes(graph: Graph, makers: Mapping[str, Node], name: str, sizes: Mapping[str, int]) -> int:
    value = graph.values.get(name)
    if value is None or value.shape is None or value.item_bytes is None:
        return 0
    dims = [dim for dim in value.shape if dim is not None]
    if len(dims) < len(value.shape):
        maker = makers.get(name)
        if maker is not None and maker.op_type in AS_LARGE:
            return _num_bytes(graph, makers, maker.inputs[0], sizes)  # of unknown shape, but as large
        raise InvalidBundleError(f"a graph does not say how large {name!r} is")
    return prod(size_of(dim, sizes) for dim in dims) * value.item_bytes


def _scores(graph: Graph, node: Node, sizes: Mapping[str, int]) -> int:
    """The scores of an attention [B, N, T, S] before and after its softmax, float32."""
    if node.op_type != "Attention":
        return 0
    query, key = (
        [size_of(dim, sizes) for dim in graph.values[name].shape or () if dim is not None] for name in node.inputs[:2]
    )
    return 2 * 4 * prod(query[:3]) * key[2]
