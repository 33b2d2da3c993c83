"""Constants of a graph as arrays. Those beside the file stay there, as they are stored, until somebody wants them.

A graph that is worked on may so hold constants in half precision where float32 belongs: `complete` ends that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

HALVES: Final = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def graph_from_file(path: Path) -> onnx.ModelProto:
    """A graph whose constants beside its file have not been read."""
    model: onnx.ModelProto = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data if is_beside(tensor) else ():
            if entry.key == "location":
                entry.value = str(path.parent.resolve() / entry.value)
    return model


def is_beside(tensor: onnx.TensorProto) -> bool:
    """Whether the values are in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def is_float(tensor: onnx.TensorProto) -> bool:
    """Whether a constant is float32, or will be."""
    return bool(tensor.data_type == onnx.TensorProto.FLOAT or (is_beside(tensor) and tensor.data_type in HALVES))


def values_of(tensor: onnx.TensorProto) -> NDArray[Any]:
    """The values; those in half precision that are beside the file become float32."""
    values: NDArray[Any]
    if not is_beside(tensor):
        values = numpy_helper.to_array(tensor)
        return values
    where = {entry.key: entry.value for entry in tensor.external_data}
    dtype, shape = helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims)
    stored = np.memmap(where["location"], np.uint8, "r", int(where.get("offset", 0)), int(where["length"]))
    values = stored.view(dtype).reshape(shape)
    return values.astype(np.float32) if tensor.data_type in HALVES else np.array(values)


def complete(graph: onnx.GraphProto) -> None:
    """Read every constant that is still beside the file; half precision stays where a Cast reads it."""
    cast = {node.input[0] for node in graph.node if node.op_type == "Cast"}
    for tensor in graph.initializer:
        if not is_beside(tensor):
            continue
        values = values_of(tensor)
        if tensor.name in cast and tensor.data_type in HALVES:
            values = values.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
