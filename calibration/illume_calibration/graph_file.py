"""ONNX files in and out, with the weights beside the file where a message cannot hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx

from illume_calibration.layers import products_from_gemms
from illume_runtime.manifest import StageSpec

MAX_INLINE_BYTES: Final = 1_500_000_000  # a protobuf file holds at most 2 GiB


def graph_from_stage(folder: Path, stage: StageSpec) -> onnx.ModelProto:
    """The graph of a stage of the bundle in a folder, with its weights, every plain product a MatMul."""
    model: onnx.ModelProto = onnx.load(folder / stage.file)
    products_from_gemms(model)
    return model


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write the file; weights beside it where they are too large for one message."""
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MAX_INLINE_BYTES
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)


def with_taps(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy of the graph that has these tensors as outputs too."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    known = {value.name for value in (*tapped.graph.output, *tapped.graph.input)}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return tapped
