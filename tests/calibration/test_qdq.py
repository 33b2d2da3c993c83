"""Quantized graphs beside numpy that rounds as the specification of QuantizeLinear says."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from illume_calibration.layers import layers_of, products_from_gemms
from illume_calibration.qdq import QuantizedLayer, quantize_graph
from illume_calibration.weights import int4_in_groups, int8_per_channel
from illume_runtime import ort as ort_module
from illume_runtime.limits import LARGE_BYTES
from illume_runtime.manifest import Flops, StageSpec, TensorSpec
from illume_runtime.ort import DISABLED_OPTIMIZERS
from illume_runtime.session import session_from_stage

RNG = np.random.default_rng(0)
K, N, M = 64, 48, 40


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(nodes, constants, inputs, outputs, opset=23):
    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "g",
        [value(name, shape) for name, shape in inputs.items()],
        [value(name, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(constant, name) for name, constant in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(model, feeds, *, optimized=True):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
    )
    return session.run(None, feeds)


def kernels_of(model, tmp_path):
    """Operators that ONNX Runtime makes of the graph."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
    )
    return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


def rounded(x, scale):
    """What a symmetric int8 pair makes of x."""
    return (np.clip(np.rint(x / np.float32(scale)), -128, 127) * np.float32(scale)).astype(np.float32)


def scale_of(x):
    return np.float32(np.abs(x).max() / 127)


@pytest.fixture
def products():
    """Three products of one tensor, as query, key and value are."""
    weights = {f"{name}.weight": array(K, N) for name in "qkv"}
    nodes = [helper.make_node("MatMul", ["x", f"{name}.weight"], [f"{name}.y"]) for name in "qkv"]
    return model_of(nodes, weights, {"x": ["B", K]}, {f"{name}.y": ["B", N] for name in "qkv"}), weights


@pytest.mark.parametrize("rows", [1, 2, 33])
def test_int8_products_are_those_of_rounded_numbers(products, rows):
    model, weights = products
    x = array(rows, K)
    quantized = {name: int8_per_channel(weights[f"{name}.weight"], 1) for name in "qkv"}
    quantize_graph(model, {name: QuantizedLayer(quantized[name], scale_of(x), None) for name in "qkv"})
    onnx.checker.check_model(model)
    for name, y in zip("qkv", run(model, {"x": x}), strict=True):
        expected = rounded(x, scale_of(x)) @ quantized[name].dequantized()
        assert np.abs(y - expected).max() <= 1e-4


def test_every_consumer_has_a_pair_of_its_own_with_the_same_scale(products):
    model, weights = products
    how = {
        name: QuantizedLayer(int8_per_channel(weights[f"{name}.weight"], 1), np.float32(0.02), None) for name in "qkv"
    }
    quantize_graph(model, how)
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert [list(node.input) for node in pairs] == [["x", "x.scale", "zero.int8"]] * 3
    assert len({node.output[0] for node in pairs}) == 3
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert constants["zero.int8"] == 0
    assert {str(constants[f"{name}.weight.int8"].dtype) for name in "qkv"} == {"int8"}
    assert not any(name in constants for name in weights)  # the float weights are gone


def test_onnx_runtime_makes_integer_kernels_of_all_of_them(products, tmp_path):
    model, weights = products
    how = {
        name: QuantizedLayer(int8_per_channel(weights[f"{name}.weight"], 1), np.float32(0.02), None) for name in "qkv"
    }
    quantize_graph(model, how)
    assert kernels_of(model, tmp_path).count("MatMulIntegerToFloat") == 3


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_alone(products, bits, tmp_path):
    model, weights = products
    x = array(5, K)
    made = {
        name: int8_per_channel(weights[f"{name}.weight"], 1)
        if bits == 8
        else int4_in_groups(weights[f"{name}.weight"], 32)
        for name in "qkv"
    }
    quantize_graph(model, {name: QuantizedLayer(weight, None, None) for name, weight in made.items()})
    onnx.checker.check_model(model)
    for name, y in zip("qkv", run(model, {"x": x}, optimized=False), strict=True):
        assert np.abs(y - x @ made[name].dequantized()).max() <= 1e-4
    assert kernels_of(model, tmp_path).count("MatMulNBits") == 3


def test_int8_weights_alone_get_wide_groups_in_large_stages(tmp_path, monkeypatch):
    width = 512
    x, weight = array(3, width), array(width, N)
    nodes = [helper.make_node("MatMul", ["x", "a.weight"], ["y"])]
    model = model_of(nodes, {"a.weight": weight}, {"x": ["B", width]}, {"y": ["B", N]})
    quantized = int8_per_channel(weight, 1)
    quantize_graph(model, {"a": QuantizedLayer(quantized, None, None)})
    onnx.save(model, tmp_path / "a.onnx")

    def of_stage(weight_bytes):
        inputs, outputs = (TensorSpec(name, "float32", ("B", n)) for name, n in (("x", width), ("y", N)))
        spec = StageSpec("a", "a.onnx", 23, (inputs,), (outputs,), weight_bytes, 0, Flops("row", 1), "", None)
        return session_from_stage(tmp_path / "a.onnx", spec, "cpu", 1).run({"x": x})["y"]

    small, large = of_stage(LARGE_BYTES - 1), of_stage(LARGE_BYTES)
    exact = x @ quantized.dequantized()
    for found in (small, large):  # the inputs are rounded to int8 in each group
        assert 0 < np.abs(found - exact).max() < 0.02 * np.abs(exact).max()
    assert not np.array_equal(small, large)
    monkeypatch.setattr(ort_module, "WIDE_GROUPS", ("session.qdq_matmulnbits_block_size", "32"))
    assert np.array_equal(of_stage(LARGE_BYTES), small)


def test_a_chain_of_convolutions_is_that_of_rounded_numbers(tmp_path):
    constants = {"a.weight": array(8, 3, 3, 3), "a.bias": array(8), "b.weight": array(6, 8, 1, 1), "b.bias": array(6)}
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["u"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["u"], ["v"]),
        helper.make_node("Conv", ["v", "b.weight", "b.bias"], ["y"]),
    ]
    model = model_of(nodes, constants, {"x": ["B", 3, 9, 7]}, {"y": ["B", 6, 9, 7]})
    x = array(2, 3, 9, 7)
    weights = {name: int8_per_channel(constants[f"{name}.weight"], 0) for name in "ab"}
    scales = {"x": scale_of(x), "u": np.float32(0.11), "v": np.float32(0.06), "y": np.float32(0.09)}
    quantize_graph(
        model,
        {
            "a": QuantizedLayer(weights["a"], scales["x"], scales["u"]),
            "b": QuantizedLayer(weights["b"], scales["v"], scales["y"]),
        },
    )
    onnx.checker.check_model(model)
    assert kernels_of(model, tmp_path).count("QLinearConv") == 2

    padded = np.pad(rounded(x, scales["x"]), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    u = np.einsum("bcyxij,ncij->bnyx", windows, weights["a"].dequantized()) + constants["a.bias"][:, None, None]
    v = rounded(np.maximum(rounded(u, scales["u"]), 0), scales["v"])
    y = np.einsum("bcyx,nc->bnyx", v, weights["b"].dequantized()[:, :, 0, 0]) + constants["b.bias"][:, None, None]
    (got,) = run(model, {"x": x}, optimized=False)
    assert np.abs(got - rounded(y, scales["y"])).max() <= 1e-4
    # The integer kernel also rounds the bias to its own step: at most one step of the output apart, and seldom.
    (fast,) = run(model, {"x": x})
    steps = np.rint((fast - got) / scales["y"])
    assert np.abs(fast - got - steps * scales["y"]).max() <= 1e-4
    assert np.abs(steps).max() <= 2
    assert (steps != 0).mean() < 0.05


def test_a_convolution_with_several_readers_is_an_integer_kernel(tmp_path):
    constants = {"a.weight": array(8, 3, 3, 3), "b.weight": array(8, 8, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["u"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["u", "shape"], ["v"]),
        helper.make_node("Conv", ["u", "b.weight"], ["w"]),
        helper.make_node("Add", ["w", "u"], ["y"]),
    ]
    shape = {"shape": np.array([0, 1, 8, 9 * 7], np.int64)}
    model = model_of(nodes, constants | shape, {"x": ["B", 3, 9, 7]}, {"y": ["B", 8, 9, 7], "v": ["B", 1, 8, 63]})
    how = {
        name: QuantizedLayer(int8_per_channel(constants[f"{name}.weight"], 0), np.float32(0.05), np.float32(0.1))
        for name in "ab"
    }
    quantize_graph(model, how)
    onnx.checker.check_model(model)
    assert kernels_of(model, tmp_path).count("QLinearConv") == 2


def test_a_product_of_rows_with_a_bias_is_an_integer_kernel(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "q.weight"], ["u"]),
        helper.make_node("Add", ["u", "q.bias"], ["y"]),
    ]
    constants = {"q.weight": array(K, N), "q.bias": array(N)}
    model = model_of(nodes, constants, {"x": ["B", K]}, {"y": ["B", N]})
    quantize_graph(model, {"q": QuantizedLayer(int8_per_channel(constants["q.weight"], 1), np.float32(0.02), None)})
    assert "MatMulIntegerToFloat" in kernels_of(model, tmp_path)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("transposed", [False, True], ids=["as is", "transposed"])
def test_a_gemm_becomes_a_product_of_the_same_numbers(bias, transposed):
    constants = {"weight": array(N, K) if transposed else array(K, N), "bias": array(N)}
    inputs = ["x", "weight", "bias"][: 3 if bias else 2]
    node = helper.make_node("Gemm", inputs, ["y"], transB=int(transposed))
    model = model_of([node], constants, {"x": ["B", K]}, {"y": ["B", N]})
    x = array(3, K)
    (before,) = run(model, {"x": x})
    products_from_gemms(model)
    onnx.checker.check_model(model)
    assert [layer.name for layer in layers_of(model.graph)] == ["weight"]
    (after,) = run(model, {"x": x})
    assert np.abs(after - before).max() <= 1e-4


def test_a_gemm_that_scales_is_left_alone():
    node = helper.make_node("Gemm", ["x", "weight"], ["y"], alpha=0.5)
    model = model_of([node], {"weight": array(K, N)}, {"x": ["B", K]}, {"y": ["B", N]})
    products_from_gemms(model)
    assert [node.op_type for node in model.graph.node] == ["Gemm"]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_weight_that_is_used_twice_is_kept_once(bits):
    nodes = [helper.make_node("MatMul", [x, "w.weight"], [f"{x}.y"]) for x in "ab"]
    weight = array(K, N)
    model = model_of(nodes, {"w.weight": weight}, {x: ["B", K] for x in "ab"}, {f"{x}.y": ["B", N] for x in "ab"})
    assert [layer.name for layer in layers_of(model.graph)] == ["w", "w#2"]
    made = int8_per_channel(weight, 1) if bits == 8 else int4_in_groups(weight, 32)
    quantize_graph(model, {name: QuantizedLayer(made, None, None) for name in ("w", "w#2")})
    onnx.checker.check_model(model)
    assert sum(list(tensor.dims) == [K, N] for tensor in model.graph.initializer) == 1
    x = array(3, K)
    for y in run(model, {"a": x, "b": x}, optimized=False):
        assert np.abs(y - x @ made.dequantized()).max() <= 1e-4


def test_a_layer_that_does_not_exist_is_refused(products):
    model, weights = products
    with pytest.raises(ValueError, match="no layer w"):
        quantize_graph(model, {"w": QuantizedLayer(int8_per_channel(weights["q.weight"], 1), None, None)})


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_int8_weights_are_within_half_a_step_of_each_channel(axis):
    weight = array(6, 5, 3, 4) * np.float32(3)
    weight[(slice(None),) * axis + (1,)] = 0
    made = int8_per_channel(weight, axis)
    steps = made.scales.reshape([-1 if i == axis else 1 for i in range(4)])
    assert made.scales.shape == (weight.shape[axis],)
    assert np.isfinite(made.scales).all()
    assert (np.abs(made.dequantized() - weight) <= steps / 2 * 1.001).all()


def test_int4_weights_are_better_than_plain_rounding():
    weight = array(K, N)
    made = int4_in_groups(weight, 32)
    assert np.abs(made.integers).max() <= 7
    assert made.scales.shape == (K // 32, N)
    groups = weight.reshape(K // 32, 32, N)
    plain = np.abs(groups).max(axis=1, keepdims=True) / 7
    error = np.square(np.rint(groups / plain) * plain - groups).mean()
    assert np.square(made.dequantized() - weight).mean() < error


def test_groups_must_divide_the_rows():
    with pytest.raises(ValueError, match="48 rows, no multiple of the group size 32"):
        int4_in_groups(array(48, 4), 32)
