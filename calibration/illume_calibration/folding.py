"""Where the channels of a tensor can be divided by numbers without a node more: in what makes the tensor.

    RMSNormalization, LayerNormalization    the gain and the bias are divided
    Mul of a product and anything           the columns of the product's weight, and its bias, are divided

The products that read the tensor have the rows of their weights multiplied instead. That is exact only if they are all
that read it, and if every constant that changes is used there alone; what is otherwise is no fold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from illume_calibration.constants import values_of
from illume_calibration.layers import Layer, layers_of

NORMS = ("RMSNormalization", "LayerNormalization")


@dataclass(frozen=True, slots=True)
class Fold:
    """A tensor that can be scaled: the products that read it, the constants [C] or [K, C] that make its channels.

    `renamed` are the tensors whose numbers change with it.
    """

    tensor: str
    layers: tuple[Layer, ...]
    constants: tuple[str, ...]
    renamed: tuple[str, ...]


def folds_of(graph: onnx.GraphProto) -> tuple[Fold, ...]:
    """All tensors of the graph that can be scaled, in its order."""
    readers: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.node):
        for name in node.input:
            readers[name].append(index)
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    uses = Counter(name for node in graph.node for name in node.input)
    of_tensor: dict[str, list[Layer]] = defaultdict(list)
    products = {layer.output: layer for layer in layers_of(graph) if layer.kind == "linear"}
    for layer in products.values():
        of_tensor[layer.input].append(layer)

    def source(tensor: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Constants and tensors that change with the product at the end of which `tensor` stands."""
        if uses[tensor] != 1 or tensor in outputs or tensor not in makers:
            return None
        if tensor in products:
            return (products[tensor].weight,), (tensor,)
        node = makers[tensor]
        if node.op_type != "Add":
            return None
        for product, bias in (node.input, reversed(node.input)):
            if product in products and len(constants.get(bias, ())) == 1 and uses[product] == 1:
                return (products[product].weight, bias), (product, tensor)
        return None

    found = []
    for tensor, layers in of_tensor.items():
        node = makers.get(tensor)
        if node is None or tensor in outputs or len(readers[tensor]) != len(layers):
            continue
        changed: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        if node.op_type in NORMS:
            changed = tuple(name for name in node.input[1:] if name), ()
        elif node.op_type == "Mul":
            changed = next(filter(None, map(source, node.input)), None)
        if changed is None:
            continue
        used_once = all(uses[name] == 1 for name in (*changed[0], *(layer.weight for layer in layers)))
        width = next(constants[layer.weight][0] for layer in layers)
        if used_once and all(constants.get(name, ())[-1:] == (width,) for name in changed[0]):
            found.append(Fold(tensor, tuple(layers), changed[0], (*changed[1], tensor)))
    return tuple(found)


def divide_channels(model: onnx.ModelProto, fold: Fold, divisors: NDArray[np.float32]) -> None:
    """Divide the channels of the tensor by divisors [K], multiply the rows of the weights that it meets.

    The tensors that change get the ending `.scaled`.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for name in fold.constants:
        _replace(constants[name], np.asarray(values_of(constants[name]) / divisors, np.float32))
    for layer in fold.layers:
        _replace(constants[layer.weight], values_of(constants[layer.weight]) * divisors[:, None])
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name in fold.renamed:
                    names[i] = f"{name}.scaled"


def _replace(tensor: onnx.TensorProto, array: NDArray[np.float32]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
