"""Attention in the form of which TensorRT makes one fused kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

FUSED_WIDTHS = range(9, 257)  # of a head; others get products and a softmax (TensorRT for RTX 1.7, 7.5 to 12.0, tried)


@dataclass(frozen=True, slots=True)
class Heads:
    """Of one Attention: how many heads the queries have, how many keys and values, and how wide one is."""

    queries: int
    keys: int
    width: int


def heads_of(model: onnx.ModelProto) -> dict[str, Heads]:
    """Of each Attention in the graph, by the name of its output; the values of weights are not needed.

    What the graph says of the types of its constants is removed: of weights that were quantized it is no longer true.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    described = [value for value in model.graph.value_info if value.name not in constants]
    del model.graph.value_info[:]
    model.graph.value_info.extend(described)
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.input, *graph.output)
    }
    found = {}
    for node in graph.node:
        if node.op_type == "Attention":
            queries, keys = shapes[node.input[0]], shapes[node.input[1]]
            found[node.output[0]] = Heads(queries[1].dim_value, keys[1].dim_value, queries[3].dim_value)
    return found


def allow_decomposition(model: onnx.ModelProto) -> None:
    """Let TensorRT take attention apart, in place: where it has no fused kernel it would refuse the graph."""
    for node in model.graph.node:
        if node.op_type == "Attention":
            node.attribute.append(helper.make_attribute("TRT_decomposable", 1))


def group_queries(model: onnx.ModelProto, heads: dict[str, Heads]) -> None:
    """Give the query heads that share keys to one head, one below the other, in place; nothing changes of a result.

    TensorRT gives each query head keys of its own and copies the whole cache to that end, in each step. Of queries
    [B, N, T, D] and keys [B, K, S, D], queries [B, K, (N/K) T, D] are made, and the mask [B, 1, T, S] is repeated.
    """
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    masks: dict[str, str] = {}
    for node in graph.node:
        found = heads.get(node.output[0]) if node.op_type == "Attention" else None
        if found is None or found.queries == found.keys:
            nodes.append(node)
            continue
        queries, output = node.input[0], node.output[0]
        grouped = _shape(graph, found.keys, found.width)
        if len(node.input) > 3 and node.input[3]:
            mask = node.input[3]
            if mask not in masks:
                masks[mask] = f"{mask}.grouped"
                copies = [mask] * (found.queries // found.keys)
                nodes.append(helper.make_node("Concat", copies, [masks[mask]], axis=2))
            node.input[3] = masks[mask]
        nodes.append(helper.make_node("Reshape", [queries, grouped], [f"{output}.queries"]))
        node.input[0], node.output[0] = f"{output}.queries", f"{output}.grouped"
        nodes.append(node)
        nodes.append(helper.make_node("Reshape", [node.output[0], _shape(graph, found.queries, found.width)], [output]))
    del graph.node[:]
    graph.node.extend(nodes)


def _shape(graph: onnx.GraphProto, heads: int, width: int) -> str:
    """The name of the constant (0, heads, -1, width), which is made where it is missing."""
    name = f"shape.{heads}x{width}"
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.array([0, heads, -1, width], np.int64), name))
    return name
