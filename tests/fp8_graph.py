"""A calibrated int8 graph with 8-bit floats in place of the integers: no tool of ours makes such a graph."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

LARGEST = 448.0  # of FLOAT8E4M3FN; of int8 it is 127


def fp8_from_int8(model: onnx.ModelProto) -> None:
    """Rewrite the graph in place: weights, zero points and scales of every QuantizeLinear and DequantizeLinear."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for name in {node.input[1] for node in pairs}:
        scale = numpy_helper.to_array(constants[name]) * np.float32(127 / LARGEST)
        constants[name].CopyFrom(numpy_helper.from_array(scale.astype(np.float32), name))
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8:
            values = numpy_helper.to_array(tensor).astype(np.float32) * np.float32(LARGEST / 127)
            eighth = np.ascontiguousarray(values.astype(ml_dtypes.float8_e4m3fn))
            tensor.CopyFrom(numpy_helper.from_array(eighth, tensor.name))
