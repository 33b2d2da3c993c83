"""Quantization written into a graph as QuantizeLinear and DequantizeLinear, in the form that backends make kernels of.

For a layer with int8 activations:

    x ── QuantizeLinear ── DequantizeLinear ──┐
    int8 constant ──────── DequantizeLinear ──┴─ MatMul or Conv

Rules: symmetric, all zero points 0; weights are int8 or int4 constants; every consumer has a pair of its own, pairs of
one tensor have equal scales; biases stay float32. A convolution may have its output quantized too, which ONNX Runtime
needs for its int8 kernel; where several nodes read that output an Identity stands before them, as ONNX Runtime gives
each reader a DequantizeLinear of its own else, and then makes a float convolution. A layer with float activations has
the constant's DequantizeLinear alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from illume_calibration.layers import Layer, drop_unused_constants, layers_of
from illume_calibration.weights import QuantizedWeight

GROUPED_OPSET = 21  # the first one with groups and int4


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """What becomes of a layer. A scale of None leaves the activations there in float32."""

    weight: QuantizedWeight
    input_scale: np.float32 | None
    output_scale: np.float32 | None


def quantize_graph(model: onnx.ModelProto, quantized: Mapping[str, QuantizedLayer]) -> None:
    """Rewrite the layers of the model that are named. Raises ValueError for a name that no layer has."""
    graph = model.graph
    layers = {layer.name: layer for layer in layers_of(graph)}
    unknown = sorted(set(quantized) - set(layers))
    if unknown:
        raise ValueError(f"there is no layer {unknown[0]}")
    _Writer(graph).write({layers[name].node: (layers[name], how) for name, how in quantized.items()})
    drop_unused_constants(graph)
    grouped = any(how.weight.group_size for how in quantized.values())
    for opset in model.opset_import:
        if grouped and opset.domain in ("", "ai.onnx") and opset.version < GROUPED_OPSET:
            raise ValueError(f"the graph has opset {opset.version}, groups need {GROUPED_OPSET}")


class _Writer:
    """Adds nodes and constants; scales are constants named by the tensor that they belong to."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._nodes: list[onnx.NodeProto] = []
        self._readers = Counter(name for node in graph.node for name in node.input)
        self._constants = {tensor.name for tensor in graph.initializer}
        self._constant("zero.int8", np.zeros((), np.int8))

    def write(self, todo: Mapping[int, tuple[Layer, QuantizedLayer]]) -> None:
        for index, node in enumerate(self._graph.node):
            if index not in todo:
                self._nodes.append(node)
                continue
            layer, how = todo[index]
            node.input[1] = self._weight(layer, how.weight)
            if how.input_scale is not None:
                node.input[0] = self._pair(layer.input, how.input_scale, f"{layer.name}.input")
            self._nodes.append(node)
            if how.output_scale is not None:
                node.output[0] = f"{layer.output}.float"
                self._output(layer, node.output[0], how.output_scale)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)

    def _weight(self, layer: Layer, weight: QuantizedWeight) -> str:
        integers, scales = (f"{layer.weight}.{end}" for end in (f"int{weight.bits}", "scale"))
        output = f"{layer.name}.weight.float"
        if weight.bits == 8:
            self._constant(integers, weight.integers)
        elif integers not in self._constants:
            self._constants.add(integers)
            self._graph.initializer.append(_int4_tensor(integers, weight.integers))
        self._constant(scales, weight.scales)
        attributes: dict[str, int] = {"axis": weight.axis}
        if weight.group_size:
            attributes["block_size"] = weight.group_size
        self._nodes.append(
            helper.make_node(
                "DequantizeLinear", [integers, scales], [output], name=f"{layer.name}.weight.dequantize", **attributes
            )
        )
        return output

    def _output(self, layer: Layer, tensor: str, scale: np.float32) -> None:
        """The pair behind a convolution, which gives what the layer gave."""
        shared = self._readers[layer.output] > 1
        rounded = self._pair(tensor, scale, f"{layer.name}.output", None if shared else layer.output)
        if shared:
            name = f"{layer.name}.output.shared"
            self._nodes.append(helper.make_node("Identity", [rounded], [layer.output], name=name))

    def _pair(self, tensor: str, scale: np.float32, name: str, output: str | None = None) -> str:
        """The name of the dequantized tensor."""
        scale_name = f"{tensor}.scale"
        self._constant(scale_name, np.asarray(scale, np.float32))
        integers = f"{name}.int8"
        output = output or f"{name}.float"
        for op_type, source, target in (("Quantize", tensor, integers), ("Dequantize", integers, output)):
            inputs = [source, scale_name, "zero.int8"]
            node = helper.make_node(f"{op_type}Linear", inputs, [target], name=f"{name}.{op_type.lower()}")
            self._nodes.append(node)
        return output

    def _constant(self, name: str, array: np.ndarray) -> None:
        if name not in self._constants:
            self._constants.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))


def _int4_tensor(name: str, integers: np.ndarray) -> onnx.TensorProto:
    """Two values a byte, the first one in the low half."""
    flat = integers.ravel()
    if flat.size % 2:
        flat = np.append(flat, np.int8(0))
    low, high = flat[0::2] & 0xF, flat[1::2] & 0xF
    packed = (low | (high << 4)).astype(np.uint8).tobytes()
    return TensorProto(name=name, data_type=TensorProto.INT4, dims=list(integers.shape), raw_data=packed)
