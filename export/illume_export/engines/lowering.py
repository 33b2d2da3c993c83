"""A stage's graph as TensorRT wants it: typed half precision, and a cache of a fixed length.

TensorRT is strongly typed: what the graph says is what runs. The borders stay as the bundle describes them, except the
cache, which TensorRT updates in place only where it is the network's own input and output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from illume_runtime.errors import ExportError

HALF_TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
LIMITS: dict[int, tuple[Any, float, float]] = {  # numpy's type, the largest and the smallest number above zero
    TensorProto.FLOAT16: (np.float16, 65504.0, 2.0**-24),
    TensorProto.BFLOAT16: (ml_dtypes.bfloat16, 255 * 2.0**120, 2.0**-133),
}
ISLANDS = ("Sin", "Cos")  # of time steps up to 1,000: an angle in float16 would be off by half a radian
FLOAT32_INPUTS = {"Resize": (1, 2)}  # by the operator's definition, whatever the type of the rest
FLOAT8 = "FLOAT8E4M3FN"
FLOAT8_FROM = (8, 9)  # compute capability
TYPES = ("FLOAT", "FLOAT16", "BFLOAT16", FLOAT8, "INT8", "INT4", "INT32", "INT64", "BOOL")  # of constants that we build


def check_types(model: onnx.ModelProto, capabilities: Sequence[str]) -> None:
    """Raises ExportError for a constant of a type that no engine is built with, or none for one of these GPUs."""
    lacking = [name for name in capabilities if tuple(map(int, name.split("."))) < FLOAT8_FROM]
    for tensor in model.graph.initializer:
        name = TensorProto.DataType.Name(tensor.data_type)
        if name not in TYPES:
            raise ExportError(
                f"the constant {tensor.name} is {name}, and engines are built with {', '.join(TYPES)}; "
                f"calibrate to int8 or int4 instead"
            )
        if name == FLOAT8 and lacking:
            raise ExportError(
                f"the constant {tensor.name} is {name}, which GPUs have from compute capability "
                f"{'.'.join(map(str, FLOAT8_FROM))} on, and not {' or '.join(lacking)}; calibrate to int8 for them"
            )


def with_slots(model: onnx.ModelProto, slots: int) -> None:
    """Give the cache dimension S its size, in place: TensorScatter wants it static."""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "S":
                dim.dim_value = slots


def to_half(model: onnx.ModelProto, precision: str) -> None:
    """Turn float32 into "float16" or "bfloat16", in place; angles of sines and cosines, and what they come from, stay.

    Integers and 8-bit floats stay what they are: the scales of QuantizeLinear and DequantizeLinear become half
    precision, and so does what they give.
    """
    half = HALF_TYPES[precision]
    graph = model.graph
    del graph.value_info[:]
    island = _island(graph)
    inside, outside = set[str](), set[str]()
    for i, node in enumerate(graph.node):
        for k, name in enumerate(node.input):
            (inside if i in island or _stays(node, k) else outside).add(name)
    renamed, before = _cast_borders(graph, inside, half)
    constants = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            constants.append(tensor)
            continue
        if tensor.name in inside:
            constants.append(tensor)
        if tensor.name in outside or tensor.name not in inside:
            name = f"{tensor.name}.half" if tensor.name in inside else tensor.name
            constants.append(numpy_helper.from_array(_half(numpy_helper.to_array(tensor), half), name))
            if name != tensor.name:
                renamed[tensor.name] = name
    nodes = []
    for i, node in enumerate(graph.node):
        nodes.append(node)
        if i not in island:
            _retype(node, half)
            for k, name in enumerate(node.input):
                node.input[k] = name if _stays(node, k) else renamed.get(name, name)
            continue
        for name in node.output:
            if name in outside:  # a cast changes no whole numbers: only Sin, Cos and their arithmetic are in an island
                renamed[name] = f"{name}.half"
                nodes.append(helper.make_node("Cast", [name], [renamed[name]], to=half))
    after = []
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and _is_cache(value.name):
            value.type.tensor_type.elem_type = half
        elif value.type.tensor_type.elem_type == TensorProto.FLOAT:
            inner = f"{value.name}.half"
            for node in nodes:
                for names in (node.input, node.output):
                    for k, name in enumerate(names):
                        names[k] = inner if name == value.name else name
            after.append(helper.make_node("Cast", [inner], [value.name], to=TensorProto.FLOAT))
    del graph.node[:], graph.initializer[:]
    graph.node.extend((*before, *nodes, *after))
    graph.initializer.extend(constants)


def _cast_borders(graph: onnx.GraphProto, inside: set[str], half: int) -> tuple[dict[str, str], list[onnx.NodeProto]]:
    """New names of the float inputs, and the casts that make them; the cache becomes half precision itself."""
    renamed, casts = {}, []
    for value in graph.input:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        if _is_cache(value.name):
            value.type.tensor_type.elem_type = half
            continue
        renamed[value.name] = f"{value.name}.half"
        casts.append(helper.make_node("Cast", [value.name], [renamed[value.name]], to=half))
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


def _stays(node: onnx.NodeProto, k: int) -> bool:
    """Whether the input number k is float32 by definition."""
    return k in FLOAT32_INPUTS.get(node.op_type, ())


def _retype(node: onnx.NodeProto, half: int) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = half
        elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            halved = _half(numpy_helper.to_array(attribute.t), half)
            attribute.t.CopyFrom(numpy_helper.from_array(halved, attribute.t.name))


def _half(array: NDArray[np.float32], half: int) -> NDArray[Any]:
    """The array in half precision; what is finite stays finite, and a scale above zero stays above zero."""
    dtype, largest, smallest = LIMITS[half]
    clipped = np.where(np.isfinite(array), np.clip(array, -largest, largest), array).astype(dtype)
    lost = (clipped == 0) & (array > 0)
    return np.where(lost, np.float32(smallest), clipped.astype(np.float32)).astype(dtype)


def _is_cache(name: str) -> bool:
    return "_cache_" in name
