"""Graphs whose channels are scaled beside the same graphs as they were."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from illume_calibration.folding import divide_channels, folds_of

RNG = np.random.default_rng(1)
D, K, N = 12, 20, 8


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(nodes, constants, outputs):
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [output]) for op, inputs, output in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", D])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}.B", f"{name}.C"]) for name in outputs],
        [numpy_helper.from_array(constant, name) for name, constant in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def run(model, x):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, {"x": x})


def block(norm="RMSNormalization", bias=False):
    """A norm, two products, their product as a gate's, and a third product."""
    constants = {
        "gain": array(D),
        "gate.weight": array(D, K),
        "up.weight": array(D, K),
        "down.weight": array(K, N),
    }
    nodes = [(norm, ["x", "gain"], "n"), ("MatMul", ["n", "gate.weight"], "g"), ("Sigmoid", ["g"], "s")]
    up = "u"
    nodes.append(("MatMul", ["n", "up.weight"], "u"))
    if bias:
        constants |= {"shift": array(D), "up.bias": array(K)}
        nodes[0] = (norm, ["x", "gain", "shift"], "n")
        nodes.append(("Add", ["up.bias", "u"], "ub"))
        up = "ub"
    nodes += [("Mul", ["s", up], "m"), ("MatMul", ["m", "down.weight"], "y")]
    return nodes, constants


@pytest.mark.parametrize(
    ("norm", "bias"), [("RMSNormalization", False), ("LayerNormalization", False), ("LayerNormalization", True)]
)
def test_scaled_graphs_say_the_same(norm, bias):
    model = model_of(*block(norm, bias), ["y"])
    folds = folds_of(model.graph)
    assert [(fold.tensor, [layer.name for layer in fold.layers]) for fold in folds] == [
        ("n", ["gate", "up"]),
        ("m", ["down"]),
    ]
    assert set(folds[0].constants) == ({"gain", "shift"} if bias else {"gain"})
    assert set(folds[1].constants) == ({"up.weight", "up.bias"} if bias else {"up.weight"})
    x = array(5, D)
    expected = run(model, x)[0]
    for fold in folds:
        width = D if fold.tensor == "n" else K
        divide_channels(model, fold, np.exp2(RNG.integers(-4, 5, width)).astype(np.float32))  # exact in floats
    onnx.checker.check_model(model)
    assert np.abs(run(model, x)[0] - expected).max() <= 1e-5 * np.abs(expected).max()
    assert {"n.scaled", "m.scaled"} <= {name for node in model.graph.node for name in node.output}


def test_a_tensor_that_others_read_is_no_fold():
    nodes, constants = block()
    model = model_of([*nodes, ("Relu", ["n"], "other")], constants, ["y", "other"])
    assert [fold.tensor for fold in folds_of(model.graph)] == ["m"]


@pytest.mark.parametrize("output", ["n", "m", "u"])
def test_an_output_is_not_changed(output):
    model = model_of(*block(), ["y", output])
    assert {"n": "n", "m": "m", "u": "m"}[output] not in [fold.tensor for fold in folds_of(model.graph)]


@pytest.mark.parametrize("shared", ["gain", "down.weight"])
def test_a_constant_that_others_use_is_not_changed(shared):
    nodes, constants = block()
    model = model_of([*nodes, ("Relu", [shared], "other")], constants, ["y", "other"])
    assert {"gain": "n", "down.weight": "m"}[shared] not in [fold.tensor for fold in folds_of(model.graph)]


def test_what_is_not_linear_is_no_fold():
    constants = {"up.weight": array(D, K), "down.weight": array(K, N)}
    nodes = [("MatMul", ["x", "up.weight"], "u"), ("Gelu", ["u"], "g"), ("MatMul", ["g", "down.weight"], "y")]
    assert folds_of(model_of(nodes, constants, ["y"]).graph) == ()
