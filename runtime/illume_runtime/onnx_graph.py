"""The nodes of an ONNX file, to be read and replaced without the onnx package; all else stays as it is in the file."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from illume_runtime.errors import InvalidBundleError
from illume_runtime.protobuf import DELIMITED, Data, field, fields, header, varint

# Numbers of fields in onnx.proto3.
MODEL_GRAPH, MODEL_OPSET, OPSET_DOMAIN, OPSET_VERSION = 7, 8, 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_OUTPUT, GRAPH_VALUE_INFO = 1, 5, 12, 13
NODE_INPUT, NODE_OUTPUT, NODE_OP, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_INTS, ATTRIBUTE_TYPE = 1, 3, 8, 20
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, VALUE_NAME = 1, 2, 8, 9, 1
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
    """The nodes in the order of the file, the names of the outputs, and the small constants by name, as int64."""

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, tuple[int, ...]]


def graph_from_file(path: Path) -> Graph:
    """The graph of an ONNX file. Raises InvalidBundleError if it is malformed."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            graph = _graph_fields(data)
            return Graph(
                tuple(_node(data, a, b) for number, a, b in graph if number == GRAPH_NODE),
                tuple(_text(data, a, b, VALUE_NAME) for number, a, b in graph if number == GRAPH_OUTPUT),
                dict(_constant(data, a, b) for number, a, b in graph if number == GRAPH_INITIALIZER),
            )
        except (IndexError, UnicodeDecodeError) as error:
            raise InvalidBundleError(f"{path.name}: no ONNX file: {error}; export the checkpoint again") from error


def file_with_nodes(path: Path, nodes: Sequence[Node], constants: Mapping[str, int], domain: str) -> bytes:
    """The file's content with these nodes, more constants [1] and one more domain, of version 1.

    Nodes that no output needs are left out. External data stay beside the file.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        graph = _graph_fields(data)
        outputs = [_text(data, a, b, VALUE_NAME) for number, a, b in graph if number == GRAPH_OUTPUT]
        parts: list[bytes | memoryview] = [field(GRAPH_NODE, node.source) for node in _needed(nodes, outputs)]
        parts += [field(GRAPH_INITIALIZER, _tensor(name, value)) for name, value in constants.items()]
        view = memoryview(data)  # weights are copied once
        for number, a, b in graph:
            if number not in (GRAPH_NODE, GRAPH_VALUE_INFO):
                parts += [header(number, b - a), view[a:b]]
        rest = [
            field(number, data[a:b] if wire == DELIMITED else varint(data, a, b)[0])
            for number, wire, a, b in fields(data, 0, len(data))
            if number != MODEL_GRAPH
        ]
        opset = field(MODEL_OPSET, field(OPSET_DOMAIN, domain.encode()) + field(OPSET_VERSION, 1))
        content = b"".join((*rest, opset, header(MODEL_GRAPH, sum(map(len, parts))), *parts))
        del parts, view  # the map closes
        return content


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


def _graph_fields(data: Data) -> list[tuple[int, int, int]]:
    """Number, start and end of the graph's fields."""
    graphs = [(a, b) for number, wire, a, b in fields(data, 0, len(data)) if (number, wire) == (MODEL_GRAPH, DELIMITED)]
    if len(graphs) != 1:
        raise IndexError(f"it has {len(graphs)} graphs")
    return [(number, a, b) for number, wire, a, b in fields(data, *graphs[0]) if wire == DELIMITED]


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
