"""ONNX files in and out, with the weights beside the file where a message cannot hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from illume_calibration.constants import HALVES, complete, graph_from_file, is_beside
from illume_calibration.layers import products_from_gemms
from illume_runtime.manifest import StageSpec

MAX_INLINE_BYTES: Final = 1_500_000_000  # a protobuf file holds at most 2 GiB


def graph_from_stage(folder: Path, stage: StageSpec) -> onnx.ModelProto:
    """The graph of a stage of the bundle in a folder, with its weights in float32, every plain product a MatMul."""
    model = lean_graph_from_stage(folder, stage)
    complete(model.graph)
    return model


def lean_graph_from_stage(folder: Path, stage: StageSpec) -> onnx.ModelProto:
    """The same, but that constants beside the file have not been read yet (`constants.py`)."""
    model = graph_from_file(folder / stage.file)
    widen_weights(model.graph)
    products_from_gemms(model)
    return model


def widen_weights(graph: onnx.GraphProto) -> None:
    """Turn every constant in half precision that is cast to float32 into float32 itself, which loses nothing.

    Those beside the file become so when they are read.
    """
    halves = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type in HALVES}
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in halves]
    names = {node.output[0]: node.input[0] for node in casts if node.attribute[0].i == onnx.TensorProto.FLOAT}
    for name in {name for name in names.values() if not is_beside(halves[name])}:
        array = numpy_helper.to_array(halves[name]).astype(np.float32)
        halves[name].CopyFrom(numpy_helper.from_array(array, name))
    kept = [node for node in graph.node if node.output[0] not in names]
    del graph.node[:]
    graph.node.extend(kept)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write the file; weights beside it where they are too large for one message."""
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MAX_INLINE_BYTES
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)


def size_of(model: onnx.ModelProto) -> int:
    """Bytes of its nodes and constants, which is nearly all of its file."""
    return sum(part.ByteSize() for part in (*model.graph.node, *model.graph.initializer))


def with_taps(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy of the graph that has these tensors as outputs too."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    known = {value.name for value in (*tapped.graph.output, *tapped.graph.input)}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return tapped
