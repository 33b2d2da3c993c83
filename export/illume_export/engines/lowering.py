"""A stage's graph as TensorRT wants it: typed float16, a cache of a fixed length, attention that may be taken apart.

TensorRT is strongly typed: what the graph says is what runs. The borders stay as the bundle describes them, except the
cache, which TensorRT updates in place only where it is the network's own input and output.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FLOAT16_MAX = 65504.0
ISLANDS = ("Sin", "Cos")  # of time steps up to 1,000: an angle in float16 would be off by half a radian


def with_slots(model: onnx.ModelProto, slots: int) -> None:
    """Give the cache dimension S its size, in place: TensorScatter wants it static."""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "S":
                dim.dim_value = slots


def allow_decomposition(model: onnx.ModelProto) -> None:
    """Let TensorRT take attention apart, in place: for float32 it has no fused kernel, and would refuse the graph."""
    for node in model.graph.node:
        if node.op_type == "Attention":
            node.attribute.append(helper.make_attribute("TRT_decomposable", 1))


def to_float16(model: onnx.ModelProto) -> None:
    """Turn float32 into float16, in place; angles of sines and cosines, and what they come from, stay float32."""
    graph = model.graph
    del graph.value_info[:]
    island = _island(graph)
    inside = {name for i in island for name in graph.node[i].input}
    outside = {name for i, node in enumerate(graph.node) if i not in island for name in node.input}
    renamed, before = _cast_borders(graph, inside)
    constants = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            constants.append(tensor)
            continue
        if tensor.name in inside:
            constants.append(tensor)
        if tensor.name in outside or tensor.name not in inside:
            name = f"{tensor.name}.float16" if tensor.name in inside else tensor.name
            constants.append(numpy_helper.from_array(_half(numpy_helper.to_array(tensor)), name))
            if name != tensor.name:
                renamed[tensor.name] = name
    nodes = []
    for i, node in enumerate(graph.node):
        nodes.append(node)
        if i not in island:
            _retype(node)
            for k, name in enumerate(node.input):
                node.input[k] = renamed.get(name, name)
            continue
        for name in node.output:
            if name in outside:  # a cast changes no whole numbers: only Sin, Cos and their arithmetic are in an island
                renamed[name] = f"{name}.float16"
                nodes.append(helper.make_node("Cast", [name], [renamed[name]], to=TensorProto.FLOAT16))
    after = []
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and _is_cache(value.name):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        elif value.type.tensor_type.elem_type == TensorProto.FLOAT:
            inner = f"{value.name}.float16"
            for node in nodes:
                for names in (node.input, node.output):
                    for k, name in enumerate(names):
                        names[k] = inner if name == value.name else name
            after.append(helper.make_node("Cast", [inner], [value.name], to=TensorProto.FLOAT))
    del graph.node[:], graph.initializer[:]
    graph.node.extend((*before, *nodes, *after))
    graph.initializer.extend(constants)


def _cast_borders(graph: onnx.GraphProto, inside: set[str]) -> tuple[dict[str, str], list[onnx.NodeProto]]:
    """New names of the float inputs, and the casts that make them; the cache becomes float16 itself."""
    renamed, casts = {}, []
    for value in graph.input:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        if _is_cache(value.name):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
            continue
        renamed[value.name] = f"{value.name}.float16"
        casts.append(helper.make_node("Cast", [value.name], [renamed[value.name]], to=TensorProto.FLOAT16))
    return renamed, casts


def _island(graph: onnx.GraphProto) -> set[int]:
    """Sines, cosines and everything that they are computed from."""
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    waiting = [i for i, node in enumerate(graph.node) if node.op_type in ISLANDS]
    while waiting:
        i = waiting.pop()
        if i not in found:
            found.add(i)
            waiting += [maker[name] for name in graph.node[i].input if name in maker]
    return found


def _retype(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(_half(numpy_helper.to_array(attribute.t)), attribute.t.name))


def _half(array: NDArray[np.float32]) -> NDArray[np.float16]:
    """The array in float16; what is finite stays finite, and a scale above zero stays above zero."""
    finite = np.isfinite(array)
    clipped = np.where(finite, np.clip(array, -FLOAT16_MAX, FLOAT16_MAX), array).astype(np.float16)
    lost = (clipped == 0) & (array > 0)
    return np.where(lost, np.finfo(np.float16).smallest_subnormal, clipped).astype(np.float16)


def _is_cache(name: str) -> bool:
    return "_cache_" in name
