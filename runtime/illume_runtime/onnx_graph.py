"""What an ONNX file says of its nodes and of the shapes of its values, read without the onnx package.

Weights are not read: where they are in the file itself they are skipped. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from illume_runtime.errors import InvalidBundleError
from illume_runtime.protobuf import DELIMITED, FIXED32, VARINT, Data, Field, fields, varint

ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 16: 2}  # of the types of TensorProto, by number
GRAPH = 7  # of ModelProto
NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = 1, 5, 11, 12, 13  # of GraphProto
NODE_INPUT, NODE_OUTPUT, OP_TYPE, ATTRIBUTE = 1, 2, 4, 5  # of NodeProto
DIMS, DATA_TYPE, TENSOR_NAME = 1, 2, 8  # of TensorProto


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: bytes of an element, and its shape, sizes or names; None where the file does not tell."""

    item_bytes: int | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Node:
    """An operator; an input that is left out is an empty name. `numbers` are its attributes that are one number."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order of the file, the names of the outputs, and what is known of values and weights."""

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, Value]
    initializers: Mapping[str, Value]


def graph_from_file(path: Path) -> Graph:
    """The graph of a file. Raises InvalidBundleError if it is malformed."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return graph_from_bytes(data)
        except (IndexError, UnicodeDecodeError) as error:
            raise InvalidBundleError(f"{path.name}: no ONNX file: {error}; export the checkpoint again") from error


def graph_from_bytes(data: Data) -> Graph:
    """The graph of a model. Raises IndexError, UnicodeDecodeError if it is malformed."""
    graph = next((item for item in fields(data, 0, len(data)) if item.number == GRAPH), None)
    if graph is None:
        raise IndexError("it has no graph")
    nodes: list[Node] = []
    outputs: list[str] = []
    values: dict[str, Value] = {}
    initializers: dict[str, Value] = {}
    for item in fields(data, graph.start, graph.end):
        if item.number == NODE:
            nodes.append(node_at(data, item))
        elif item.number == INITIALIZER:
            name, value = tensor_at(data, item)
            initializers[name] = value
        elif item.number in (INPUT, OUTPUT, VALUE_INFO):
            name, value = _value_at(data, item)
            values[name] = value
            if item.number == OUTPUT:
                outputs.append(name)
    return Graph(tuple(nodes), tuple(outputs), values, initializers)


def text_at(data: Data, item: Field) -> str:
    """A field that is a text. Raises UnicodeDecodeError."""
    return data[item.start : item.end].decode()


def node_at(data: Data, item: Field) -> Node:
    """A NodeProto."""
    texts: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], OP_TYPE: []}
    numbers: dict[str, float] = {}
    for part in fields(data, item.start, item.end):
        if part.number in texts:
            texts[part.number].append(text_at(data, part))
        elif part.number == ATTRIBUTE:
            numbers |= _number_at(data, part)
    return Node("".join(texts[OP_TYPE]), tuple(texts[NODE_INPUT]), tuple(texts[NODE_OUTPUT]), numbers)


def _number_at(data: Data, item: Field) -> dict[str, float]:
    """An AttributeProto: name 1, float 2, integer 3; nothing where it is another kind."""
    name, found = "", {}
    for part in fields(data, item.start, item.end):
        if part.number == 1:
            name = text_at(data, part)
        elif part.number == 2 and part.wire == FIXED32:
            found[name] = float(struct.unpack("<f", data[part.start : part.end])[0])
        elif part.number == 3 and part.wire == VARINT:
            found[name] = float(part.value)
    return found


def tensor_at(data: Data, item: Field) -> tuple[str, Value]:
    """Name, type and shape of a TensorProto."""
    name, dims, data_type = "", [], 0
    for part in fields(data, item.start, item.end):
        if part.number == TENSOR_NAME:
            name = text_at(data, part)
        elif part.number == DATA_TYPE:
            data_type = part.value
        elif part.number == DIMS and part.wire == DELIMITED:  # packed
            at = part.start
            while at < part.end:
                size, at = varint(data, at, part.end)
                dims.append(size)
        elif part.number == DIMS:
            dims.append(part.value)
    return name, Value(ITEM_BYTES.get(data_type), tuple(dims))


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
