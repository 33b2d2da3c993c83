"""What an ONNX file says of its nodes and of the shapes of its values, read without the onnx package.

Weights are not read: where they are in the file itself they are skipped. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from illume_runtime.errors import InvalidBundleError
from illume_runtime.protobuf import DELIMITED, FIXED32, Data, Field, fields, varint

MODEL_GRAPH: Final = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO = 1, 5, 11, 12, 13
NODE_INPUT, NODE_OUTPUT, NODE_OP, NODE_ATTRIBUTE = 1, 2, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_INTS = 1, 2, 3, 8
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
FLOAT, INT32, INT64 = 1, 6, 7  # types of TensorProto
ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 16: 2}  # of all of them
LARGEST_CONSTANT: Final = 64  # bytes; a shape is no larger


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: bytes of an element, and its shape, sizes or names; None where the file does not tell."""

    item_bytes: int | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Node:
    """An operator; an input that is left out is an empty name. Attributes by name, and the whole, as in the file."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, bytes] = field(default_factory=dict)
    source: bytes = b""


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order of the file, the names of the outputs, and what is known of values and weights.

    `constants` are the numbers of the weights that are a few of int64.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, Value]
    initializers: Mapping[str, Value]
    constants: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def graph_from_file(path: Path) -> Graph:
    """The graph of a file. Raises InvalidBundleError if it is malformed."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return graph_from_bytes(data)
    except (IndexError, ValueError) as error:  # UnicodeDecodeError, and an empty file, are ValueErrors
        raise InvalidBundleError(f"{path.name}: no ONNX file: {error}; export the checkpoint again") from error


def graph_from_bytes(data: Data) -> Graph:
    """The graph of a model. Raises IndexError, UnicodeDecodeError if it is malformed."""
    graph = graph_at(data)
    nodes: list[Node] = []
    outputs: list[str] = []
    values: dict[str, Value] = {}
    initializers: dict[str, Value] = {}
    constants: dict[str, tuple[int, ...]] = {}
    for item in fields(data, graph.start, graph.end):
        if item.number == GRAPH_NODE:
            nodes.append(node_at(data, item))
        elif item.number == GRAPH_INITIALIZER:
            name, value = tensor_at(data, item)
            initializers[name] = value
            if numbers := _constant_at(data, item):
                constants[name] = numbers
        elif item.number in (GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO):
            name, value = _value_at(data, item)
            values[name] = value
            if item.number == GRAPH_OUTPUT:
                outputs.append(name)
    return Graph(tuple(nodes), tuple(outputs), values, initializers, constants)


def graph_at(data: Data) -> Field:
    """Where the graph of a model is. Raises IndexError."""
    found = [item for item in fields(data, 0, len(data)) if (item.number, item.wire) == (MODEL_GRAPH, DELIMITED)]
    if len(found) != 1:
        raise IndexError(f"it has {len(found)} graphs")
    return found[0]


def numbers_of(attribute: bytes) -> tuple[float, ...]:
    """What an attribute of one number or of several integers says; nothing where it is another kind."""
    found: list[float] = []
    for item in fields(attribute, 0, len(attribute)):
        if item.number == ATTRIBUTE_FLOAT and item.wire == FIXED32:
            found += struct.unpack("<f", attribute[item.start : item.end])
        elif item.number in (ATTRIBUTE_INT, ATTRIBUTE_INTS):
            found += [value - (1 << 64) if value >> 63 else value for value in _varints(attribute, item)]
    return tuple(found)


def text_at(data: Data, item: Field) -> str:
    """A field that is a text. Raises UnicodeDecodeError."""
    return data[item.start : item.end].decode()


def node_at(data: Data, item: Field) -> Node:
    """A NodeProto. Raises IndexError, UnicodeDecodeError."""
    texts: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], NODE_OP: []}
    attributes: dict[str, bytes] = {}
    for part in fields(data, item.start, item.end):
        if part.number in texts:
            texts[part.number].append(text_at(data, part))
        elif part.number == NODE_ATTRIBUTE:
            names = [text_at(data, f) for f in fields(data, part.start, part.end) if f.number == ATTRIBUTE_NAME]
            attributes["".join(names)] = data[part.start : part.end]
    op_type, source = "".join(texts[NODE_OP]), data[item.start : item.end]
    return Node(op_type, tuple(texts[NODE_INPUT]), tuple(texts[NODE_OUTPUT]), attributes, source)


def tensor_at(data: Data, item: Field) -> tuple[str, Value]:
    """Name, type and shape of a TensorProto. Raises IndexError, UnicodeDecodeError."""
    name, dims, data_type = "", [], 0
    for part in fields(data, item.start, item.end):
        if part.number == TENSOR_NAME:
            name = text_at(data, part)
        elif part.number == TENSOR_TYPE:
            data_type = part.value
        elif part.number == TENSOR_DIMS:
            dims += _varints(data, part)
    return name, Value(ITEM_BYTES.get(data_type), tuple(dims))


def _constant_at(data: Data, item: Field) -> tuple[int, ...]:
    """The numbers of a TensorProto; none where it is not a few of int64."""
    found = {part.number: part for part in fields(data, item.start, item.end)}
    raw = found.get(TENSOR_RAW)
    is_int64 = TENSOR_TYPE in found and found[TENSOR_TYPE].value == INT64
    if raw is None or not is_int64 or raw.end - raw.start > LARGEST_CONSTANT:
        return ()
    return tuple(np.frombuffer(data[raw.start : raw.end], "<i8").tolist())


def _varints(data: Data, item: Field) -> list[int]:
    """The number in a field, or those that are packed in it."""
    found, at = [], item.start
    while at < item.end:
        value, at = varint(data, at, item.end)
        found.append(value)
    return found


def _value_at(data: Data, item: Field) -> tuple[str, Value]:
    """A ValueInfoProto: name 1, type 2; of that, of a tensor, 1: element type 1, shape 2."""
    name, found = "", Value(None, None)
    for part in fields(data, item.start, item.end):
        if part.number == 1:
            name = text_at(data, part)
        elif part.number == 2:
            for tensor in fields(data, part.start, part.end):
                if tensor.number == 1:
                    found = _tensor_type_at(data, tensor)
    return name, found


def _tensor_type_at(data: Data, item: Field) -> Value:
    data_type, shape = 0, None
    for part in fields(data, item.start, item.end):
        if part.number == 1:
            data_type = part.value
        elif part.number == 2:
            dims = [dim for dim in fields(data, part.start, part.end) if dim.number == 1]
            shape = tuple(_dimension_at(data, dim) for dim in dims)
    return Value(ITEM_BYTES.get(data_type), shape)


def _dimension_at(data: Data, item: Field) -> int | str | None:
    """A size 1 or a name 2."""
    for part in fields(data, item.start, item.end):
        if part.number == 1:
            return part.value
        if part.number == 2:
            return text_at(data, part)
    return None
