"""The nodes of an ONNX file, read and replaced without the onnx package; its weights are not read."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from illume_runtime.errors import InvalidBundleError
from illume_runtime.protobuf import DELIMITED, Data, field, fields, varint, without

# Numbers of fields in onnx.proto3.
MODEL_GRAPH, MODEL_OPSET, OPSET_DOMAIN, OPSET_VERSION = 7, 8, 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_OUTPUT, GRAPH_VALUE_INFO = 1, 5, 12, 13
NODE_INPUT, NODE_OUTPUT, NODE_OP, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_INTS, ATTRIBUTE_TYPE = 1, 3, 8, 20
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, TENSOR_ENTRY, TENSOR_LOCATION = 1, 2, 8, 9, 13, 14
ENTRY_KEY, ENTRY_VALUE, VALUE_NAME, EXTERNAL = 1, 2, 1, 1  # TensorProto.EXTERNAL
INT_ATTRIBUTE, INT32, INT64 = 2, 6, 7  # AttributeProto.INT, TensorProto.INT32 and INT64
LARGEST_CONSTANT: Final = 64  # bytes; a shape is no larger


@dataclass(frozen=True, slots=True)
class Node:
    """A node; attributes by name, each as it stands in the file."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, bytes]
    source: bytes


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes in the order of the file, and the constants by name: the numbers of those that are a few of int64."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, tuple[int, ...]]


def graph_from_file(path: Path) -> Graph:
    """The graph of an ONNX file. Raises InvalidBundleError if it is malformed."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _, graph = _graph(data)
            return Graph(
                tuple(_node(data, a, b) for number, a, b in graph if number == GRAPH_NODE),
                dict(_constant(data, a, b) for number, a, b in graph if number == GRAPH_INITIALIZER),
            )
    except (IndexError, ValueError) as error:  # UnicodeDecodeError, and an empty file, are ValueErrors
        raise InvalidBundleError(f"{path.name}: no ONNX file: {error}; export the checkpoint again") from error


def file_with_nodes(path: Path, nodes: Sequence[Node], constants: Mapping[str, int], domain: str) -> bytes:
    """The file's content with these nodes, more constants [1] and one more domain, of version 1.

    Nodes that no output needs are left out. Weights stay where they are: those within the file become external data
    in it, so that the content belongs to the folder of the file.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        span, graph = _graph(data)
        outputs = [_text(data, a, b, VALUE_NAME) for number, a, b in graph if number == GRAPH_OUTPUT]
        weights = [_outside(data, a, b, path.name) for number, a, b in graph if number == GRAPH_INITIALIZER]
        parts = [field(GRAPH_NODE, node.source) for node in _needed(nodes, outputs)]
        parts += [field(GRAPH_INITIALIZER, _tensor(name, value)) for name, value in constants.items()]
        parts += [field(GRAPH_INITIALIZER, weight) for weight in weights]
        parts.append(without(data, *span, {GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_VALUE_INFO}))
        opset = field(OPSET_DOMAIN, domain.encode()) + field(OPSET_VERSION, 1)
        rest = without(data, 0, len(data), {MODEL_GRAPH})
        return rest + field(MODEL_OPSET, opset) + field(MODEL_GRAPH, b"".join(parts))


def new_node(
    op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", *given: bytes, **attributes: int
) -> Node:
    """A node with integers as attributes, and attributes `given` as they stand in a file."""
    own = {
        name: field(ATTRIBUTE_NAME, name.encode()) + field(ATTRIBUTE_INT, value) + field(ATTRIBUTE_TYPE, INT_ATTRIBUTE)
        for name, value in attributes.items()
    }
    source = [field(NODE_INPUT, name.encode()) for name in inputs]
    source += [field(NODE_OUTPUT, name.encode()) for name in outputs]
    source += [field(NODE_OP, op.encode()), field(NODE_DOMAIN, domain.encode())]
    source += [field(NODE_ATTRIBUTE, attribute) for attribute in (*own.values(), *given)]
    return Node(op, tuple(inputs), tuple(outputs), own, b"".join(source))


def integers(attribute: bytes) -> tuple[int, ...]:
    """What an attribute of one or several integers says."""
    found: list[int] = []
    for number, _, start, end in fields(attribute, 0, len(attribute)):
        if number in (ATTRIBUTE_INT, ATTRIBUTE_INTS):
            at = start
            while at < end:  # several in one field are packed
                value, at = varint(attribute, at, end)
                found.append(value - (1 << 64) if value >> 63 else value)
    return tuple(found)


def _graph(data: Data) -> tuple[tuple[int, int], list[tuple[int, int, int]]]:
    """Start and end of the graph, and of each of its fields behind the field's number. Raises IndexError."""
    spans = [(a, b) for number, wire, a, b in fields(data, 0, len(data)) if (number, wire) == (MODEL_GRAPH, DELIMITED)]
    if len(spans) != 1:
        raise IndexError(f"it has {len(spans)} graphs")
    return spans[0], [(number, a, b) for number, wire, a, b in fields(data, *spans[0]) if wire == DELIMITED]


def _node(data: Data, start: int, end: int) -> Node:
    texts: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], NODE_OP: []}
    attributes = {}
    for number, _, a, b in fields(data, start, end):
        if number in texts:
            texts[number].append(data[a:b].decode("utf-8"))
        elif number == NODE_ATTRIBUTE:
            attributes[_text(data, a, b, ATTRIBUTE_NAME)] = data[a:b]
    op = "".join(texts[NODE_OP])
    return Node(op, tuple(texts[NODE_INPUT]), tuple(texts[NODE_OUTPUT]), attributes, data[start:end])


def _text(data: Data, start: int, end: int, wanted: int) -> str:
    """The text in one field of a message."""
    found = [(a, b) for number, _, a, b in fields(data, start, end) if number == wanted]
    return b"".join(data[a:b] for a, b in found).decode("utf-8")


def _constant(data: Data, start: int, end: int) -> tuple[str, tuple[int, ...]]:
    """Name and numbers of an initializer; no numbers where it is not a few of int64."""
    found = {number: (a, b) for number, _, a, b in fields(data, start, end)}
    a, b = found.get(TENSOR_RAW, (0, 0))
    is_small = b - a <= LARGEST_CONSTANT and varint(data, *found[TENSOR_TYPE])[0] == INT64
    return _text(data, start, end, TENSOR_NAME), tuple(np.frombuffer(data[a:b], "<i8").tolist()) if is_small else ()


def _outside(data: Data, start: int, end: int, location: str) -> bytes:
    """An initializer whose values, where they are not few, are external data in the file that they are in."""
    raw = [(a, b) for number, _, a, b in fields(data, start, end) if number == TENSOR_RAW]
    if not raw or raw[0][1] - raw[0][0] <= LARGEST_CONSTANT:
        return data[start:end]
    first, last = raw[0]
    parts = [without(data, start, end, {TENSOR_RAW}), field(TENSOR_LOCATION, EXTERNAL)]
    for key, value in {"location": location, "offset": str(first), "length": str(last - first)}.items():
        parts.append(field(TENSOR_ENTRY, field(ENTRY_KEY, key.encode()) + field(ENTRY_VALUE, value.encode())))
    return b"".join(parts)


def _tensor(name: str, value: int) -> bytes:
    head = field(TENSOR_DIMS, 1) + field(TENSOR_TYPE, INT64) + field(TENSOR_NAME, name.encode())
    return head + field(TENSOR_RAW, np.array([value], "<i8").tobytes())


def _needed(nodes: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    """The nodes that lead to the outputs."""
    wanted, found = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return found[::-1]
