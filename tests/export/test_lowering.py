"""Graphs as TensorRT wants them: half precision, grouped queries, and what is refused."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from illume_export.engines.attention import Heads, allow_decomposition, group_queries, heads_of
from illume_export.engines.lowering import check_types, to_half
from illume_export.engines.worker import write_graph
from illume_runtime.errors import ExportError

RNG = np.random.default_rng(0)


def value(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(nodes, inputs, outputs, constants=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def attention(queries, keys, *, mask=True, width=6):
    inputs = [
        value("q", ["B", queries, "T", width]),
        value("k", ["B", keys, 7, width]),
        value("v", ["B", keys, 7, width]),
    ]
    inputs += [value("mask", ["B", 1, "T", 7])] if mask else []
    names = [port.name for port in inputs]
    nodes = [
        helper.make_node("Attention", names, ["first"], scale=0.3),
        helper.make_node("Attention", ["first", *names[1:]], ["y"], scale=0.2),
    ]
    return model_of(nodes, inputs, [value("y", ["B", queries, "T", width])])


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(6, 2), (4, 1), (3, 3)])
@pytest.mark.parametrize("tokens", [1, 5])
def test_grouping_queries_changes_no_result(queries, keys, mask, tokens):
    model = attention(queries, keys, mask=mask)
    feeds = {
        "q": RNG.standard_normal((2, queries, tokens, 6)),
        "k": RNG.standard_normal((2, keys, 7, 6)),
        "v": RNG.standard_normal((2, keys, 7, 6)),
    }
    if mask:
        feeds["mask"] = np.where(RNG.random((2, 1, tokens, 7)) < 0.4, -1e4, 0)
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}

    def run():
        onnx.checker.check_model(model, full_check=True)
        return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]

    before = run()
    heads = heads_of(model)
    assert heads == {name: Heads(queries, keys, 6) for name in ("first", "y")}
    group_queries(model, heads)
    assert sum(node.op_type == "Concat" for node in model.graph.node) == (mask and queries != keys)  # one for both
    assert {head.queries for head in heads_of(model).values()} == {keys}
    np.testing.assert_allclose(run(), before, rtol=0, atol=1e-6)


def test_attention_may_be_taken_apart():
    model = attention(2, 2)
    allow_decomposition(model)
    assert [node.attribute[-1].name for node in model.graph.node] == ["TRT_decomposable"] * 2


@pytest.mark.parametrize(("precision", "half"), [("float16", TensorProto.FLOAT16), ("bfloat16", TensorProto.BFLOAT16)])
def test_angles_stay_float32_and_scales_above_zero(precision, half):
    weight = numpy_helper.from_array(np.array([1e-42, 3.4e38], np.float32), "w")
    nodes = [
        helper.make_node("Mul", ["time", "w"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["sine"]),
        helper.make_node("Mul", ["sine", "w"], ["y"]),
    ]
    model = model_of(nodes, [value("time", [2])], [value("y", [2])], [weight])
    to_half(model, precision)
    onnx.checker.check_model(model, full_check=True)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    assert constants["w"].data_type == TensorProto.FLOAT
    assert constants["w.half"].data_type == half
    array = numpy_helper.to_array(constants["w.half"]).astype(np.float32)
    assert array[0] > 0
    assert np.isfinite(array).all()


def test_what_an_operator_wants_in_float32_stays_so():
    factors = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "factors")
    nodes = [helper.make_node("Resize", ["x", "", "factors"], ["y"], mode="nearest")]
    model = model_of(nodes, [value("x", [1, 1, 2, 2])], [value("y", [1, 1, 4, 4])], [factors])
    to_half(model, "bfloat16")
    onnx.checker.check_model(model, full_check=True)
    assert [tensor.data_type for tensor in model.graph.initializer] == [TensorProto.FLOAT]


def test_the_cache_becomes_half_precision_and_the_other_borders_stay(bundle, tmp_path):
    counts = write_graph(bundle / "stages" / "decoder.onnx", tmp_path / "graph.onnx", 48, "bfloat16")
    assert counts == (2, 4)
    graph = onnx.load(tmp_path / "graph.onnx").graph
    types = {port.name: port.type.tensor_type.elem_type for port in (*graph.input, *graph.output)}
    caches = {name for name in types if "_cache_" in name}
    assert len(caches) == 8
    assert {types[name] for name in caches} == {TensorProto.BFLOAT16}
    assert (types["inputs_embeds"], types["positions"], types["hidden"]) == (1, 7, 1)
    slots = {port.type.tensor_type.shape.dim[2].dim_value for port in graph.input if port.name in caches}
    assert slots == {48}


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT8E5M2, TensorProto.UINT8])
def test_a_type_without_engines_is_refused(dtype):
    weight = helper.make_tensor("w", dtype, [1], b"\x08", raw=True)
    model = model_of([], [], [], [weight])
    name = TensorProto.DataType.Name(dtype)
    with pytest.raises(
        ExportError, match=f"the constant w is {name}, and engines are built with .*; calibrate to int8"
    ):
        check_types(model, ["8.9"])


def test_8_bit_floats_are_for_gpus_that_have_them():
    weight = helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, [1], b"\x08", raw=True)
    model = model_of([], [], [], [weight])
    check_types(model, ["8.9", "9.0", "12.0"])
    with pytest.raises(
        ExportError, match=r"the constant w is FLOAT8E4M3FN, .* from .* 8\.9 on, and not 8\.6 or 8\.7; "
    ):
        check_types(model, ["8.6", "8.7", "8.9"])


def test_what_was_said_of_the_type_of_a_weight_before_it_was_quantized_is_no_error():
    """Calibration of a stage in half precision leaves the descriptions of its constants as they were."""
    model = attention(2, 2, mask=False)
    scale = numpy_helper.from_array(np.float32(2), "scale")
    model.graph.initializer.append(scale)
    model.graph.node.insert(0, helper.make_node("Mul", ["q", "scale"], ["scaled"]))
    model.graph.node[1].input[0] = "scaled"
    model.graph.value_info.append(value("scale", [], TensorProto.FLOAT16))
    assert heads_of(model) == {name: Heads(2, 2, 6) for name in ("first", "y")}
