"""Where an ONNX file says that its weights are, read without the onnx package.

Only the fields that lead to a tensor's `external_data` are followed (onnx.proto3); everything else is skipped unread.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from illume_runtime.errors import InvalidBundleError
from illume_runtime.limits import MAX_GRAPH_BYTES
from illume_runtime.protobuf import DELIMITED, fields

FIELDS = {  # message -> field number -> message
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
KEY, VALUE = 1, 2  # fields of an entry


def external_locations(path: Path) -> frozenset[str]:
    """Every location of external data in the file, as written there. Raises InvalidBundleError if it is malformed."""
    size = path.stat().st_size
    if not 0 < size <= MAX_GRAPH_BYTES:
        raise InvalidBundleError(f"{path.name}: {size} bytes, expected an ONNX file of at most {MAX_GRAPH_BYTES}")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return frozenset(_locations(data))
        except (IndexError, UnicodeDecodeError) as error:
            raise InvalidBundleError(f"{path.name}: no ONNX file: {error}; export the checkpoint again") from error


def _locations(data: mmap.mmap) -> Iterator[str]:
    todo = [("model", 0, len(data))]
    while todo:
        message, start, end = todo.pop()
        if message == "entry":
            entry = {f.number: data[f.start : f.end] for f in fields(data, start, end) if f.wire == DELIMITED}
            if entry.get(KEY) == b"location":
                yield entry.get(VALUE, b"").decode("utf-8")
            continue
        inner = FIELDS[message]
        todo += [
            (inner[f.number], f.start, f.end)
            for f in fields(data, start, end)
            if f.wire == DELIMITED and f.number in inner
        ]
