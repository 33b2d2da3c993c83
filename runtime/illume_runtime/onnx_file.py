"""ONNX files with other nodes, written without the onnx package."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from illume_runtime.onnx_graph import (
    ATTRIBUTE_INT,
    ATTRIBUTE_INTS,
    ATTRIBUTE_NAME,
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    GRAPH_VALUE_INFO,
    INT64,
    LARGEST_CONSTANT,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_OP,
    NODE_OUTPUT,
    TENSOR_DIMS,
    TENSOR_NAME,
    TENSOR_RAW,
    TENSOR_TYPE,
    Graph,
    Node,
    graph_at,
)
from illume_runtime.protobuf import Data, Field, field, fields, without

MODEL_OPSET, OPSET_DOMAIN, OPSET_VERSION = 8, 1, 2
NODE_DOMAIN, ATTRIBUTE_GRAPH, ATTRIBUTE_TYPE = 7, 6, 20
INT_ATTRIBUTE, GRAPH_ATTRIBUTE, INTS_ATTRIBUTE = 2, 5, 7  # types of AttributeProto
TENSOR_ENTRY, TENSOR_LOCATION, ENTRY_KEY, ENTRY_VALUE, EXTERNAL = 13, 14, 1, 2, 1


def file_with_nodes(
    path: Path, graph: Graph, nodes: Sequence[Node], constants: Mapping[str, int], domain: str
) -> bytes:
    """The file of `graph` with these nodes, more constants [1] and one more domain, of version 1.

    Nodes that no output needs are left out. Weights stay where they are: those within the file become external data
    in it, so that the content belongs to the folder of the file.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = graph_at(data)
        weights = [item for item in fields(data, at.start, at.end) if item.number == GRAPH_INITIALIZER]
        parts = [field(GRAPH_NODE, node.source) for node in _needed(nodes, graph.outputs)]
        parts += [field(GRAPH_INITIALIZER, integers_tensor(name, [value])) for name, value in constants.items()]
        parts += [field(GRAPH_INITIALIZER, _outside(data, item, path.name)) for item in weights]
        parts.append(without(data, at.start, at.end, {GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_VALUE_INFO}))
        opset = field(OPSET_DOMAIN, domain) + field(OPSET_VERSION, 1)
        rest = without(data, 0, len(data), {MODEL_GRAPH})
        return rest + field(MODEL_OPSET, opset) + field(MODEL_GRAPH, b"".join(parts))


def new_node(
    op_type: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    domain: str = "",
    *given: bytes,
    **attributes: int | Sequence[int] | bytes,
) -> Node:
    """A node with integers and graphs as attributes, and attributes `given` as they stand in a file."""
    own = {name: _attribute(name, value) for name, value in attributes.items()}
    source = [field(NODE_INPUT, name) for name in inputs]
    source += [field(NODE_OUTPUT, name) for name in outputs]
    source += [field(NODE_OP, op_type), field(NODE_DOMAIN, domain)]
    source += [field(NODE_ATTRIBUTE, attribute) for attribute in (*own.values(), *given)]
    return Node(op_type, tuple(inputs), tuple(outputs), own, b"".join(source))


def integers_tensor(name: str, values: Sequence[int]) -> bytes:
    """A weight [n] of int64."""
    head = field(TENSOR_DIMS, len(values)) + field(TENSOR_TYPE, INT64) + field(TENSOR_NAME, name)
    return head + field(TENSOR_RAW, np.array(values, "<i8").tobytes())


def _attribute(name: str, value: int | Sequence[int] | bytes) -> bytes:
    if isinstance(value, bytes):
        content = field(ATTRIBUTE_GRAPH, value) + field(ATTRIBUTE_TYPE, GRAPH_ATTRIBUTE)
    elif isinstance(value, int):
        content = field(ATTRIBUTE_INT, value) + field(ATTRIBUTE_TYPE, INT_ATTRIBUTE)
    else:
        content = b"".join(field(ATTRIBUTE_INTS, number) for number in value) + field(ATTRIBUTE_TYPE, INTS_ATTRIBUTE)
    return field(ATTRIBUTE_NAME, name) + content


def _outside(data: Data, item: Field, location: str) -> bytes:
    """An initializer whose values, where they are not few, are external data in the file that they are in."""
    raw = next((part for part in fields(data, item.start, item.end) if part.number == TENSOR_RAW), None)
    if raw is None or raw.end - raw.start <= LARGEST_CONSTANT:
        return data[item.start : item.end]
    parts = [without(data, item.start, item.end, {TENSOR_RAW}), field(TENSOR_LOCATION, EXTERNAL)]
    entries = {"location": location, "offset": str(raw.start), "length": str(raw.end - raw.start)}
    parts += [field(TENSOR_ENTRY, field(ENTRY_KEY, key) + field(ENTRY_VALUE, value)) for key, value in entries.items()]
    return b"".join(parts)


def _needed(nodes: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    """The nodes that lead to the outputs."""
    wanted, found = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return found[::-1]
