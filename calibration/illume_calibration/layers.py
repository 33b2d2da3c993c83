"""The layers of a graph that can be quantized: products and convolutions whose weights are constants.

A layer is called what its weight is called in the checkpoint: `blocks.0.mlp.up` for `blocks.0.mlp.up.weight`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from illume_calibration.constants import is_float, values_of

Kind = Literal["linear", "conv"]
MOVED: Final = re.compile(r"(\.T|\.\d+(x\d+)+)+$")  # of a weight that was transposed or reshaped


@dataclass(frozen=True, slots=True)
class Layer:
    """One node: x [..., K] times weight [K, N], or a convolution with weight [N, C, Y, X].

    `axis` is the weight's axis of N, the channels that get scales of their own.
    """

    name: str
    kind: Kind
    node: int
    input: str
    weight: str
    output: str

    @property
    def axis(self) -> int:
        """Axis of the output channels in the weight."""
        return 1 if self.kind == "linear" else 0


def layers_of(graph: onnx.GraphProto) -> tuple[Layer, ...]:
    """All layers in the order of the graph; a weight that is used again gives `name#2`, `name#3`, ..."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if is_float(tensor)}
    uses: Counter[str] = Counter()
    found = []
    for index, node in enumerate(graph.node):
        if len(node.input) < 2 or node.domain not in ("", "ai.onnx"):
            continue
        shape = shapes.get(node.input[1], ())
        kind: Kind
        if node.op_type == "MatMul" and len(shape) == 2:
            kind = "linear"
        elif node.op_type == "Conv" and len(shape) == 4:
            kind = "conv"
        else:
            continue
        uses[node.input[1]] += 1
        number = uses[node.input[1]]
        name = layer_name(node.input[1]) + (f"#{number}" if number > 1 else "")
        found.append(Layer(name, kind, index, node.input[0], node.input[1], node.output[0]))
    return tuple(found)


def layer_name(weight: str) -> str:
    """The name of the layer with this weight; what export moved is called as it was: `.T`, `.64x24` are left out."""
    return MOVED.sub("", weight).removesuffix(".weight")


def products_from_gemms(model: onnx.ModelProto) -> None:
    """Turn every Gemm with a constant weight, without scaling, into MatMul and Add.

    Backends know more about a MatMul of quantized weights than about a Gemm. alpha = beta = 1 and transA = 0 are
    required; a transposed weight is stored transposed, so that the numbers stay what they are.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = options.get("alpha", 1.0) == 1.0 and options.get("beta", 1.0) == 1.0 and not options.get("transA", 0)
        if node.op_type != "Gemm" or node.input[1] not in constants or not plain:
            nodes.append(node)
            continue
        weight = node.input[1]
        if options.get("transB", 0):
            weight = f"{node.input[1]}.T"
            if weight not in constants:
                array = np.ascontiguousarray(values_of(constants[node.input[1]]).T)
                constants[weight] = numpy_helper.from_array(array, weight)
                graph.initializer.append(constants[weight])
        has_bias = len(node.input) > 2 and node.input[2]
        product = f"{node.output[0]}.product" if has_bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name))
        if has_bias:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}.bias"))
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_constants(graph)


def drop_unused_constants(graph: onnx.GraphProto) -> None:
    """Remove the initializers that no node reads and that are no output."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for index in reversed(range(len(graph.initializer))):  # a new list would hold a second copy of all of them
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def weight_of(graph: onnx.GraphProto, layer: Layer) -> NDArray[np.float32]:
    """The float32 weight of a layer."""
    for tensor in graph.initializer:
        if tensor.name == layer.weight:
            array: NDArray[np.float32] = values_of(tensor)
            return array
    raise ValueError(f"{layer.name}: the graph has no constant {layer.weight}")
