import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from illume_calibration.graph_file import graph_from_stage, size_of
from illume_calibration.layers import layers_of, weight_of
from illume_runtime.manifest import Flops, StageSpec


@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16], ids=["float16", "bfloat16"])
def test_weights_in_half_precision_are_widened(tmp_path, half):
    weight = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)  # exact in both
    stored = helper.make_tensor("up.weight", half, weight.shape, weight.ravel().tolist())
    nodes = [
        helper.make_node("Cast", ["up.weight"], ["up.weight.float32"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "up.weight.float32"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 2]) for name in "xy"]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], [stored])), tmp_path / "s.onnx")
    spec = StageSpec("s", "s.onnx", 23, (), (), 8, 4, Flops("call", 0), "", None)
    model = graph_from_stage(tmp_path, spec)
    (layer,) = layers_of(model.graph)
    assert (layer.name, layer.weight) == ("up", "up.weight")
    assert np.array_equal(weight_of(model.graph, layer), weight)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    assert size_of(model) == pytest.approx(model.ByteSize(), abs=80)


def test_a_cast_to_half_precision_stays():
    from illume_calibration.graph_file import widen_weights

    stored = numpy_helper.from_array(np.ones(2, np.float16), "w")
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT), helper.make_node("Add", ["w", "w"], ["z"])]
    graph = helper.make_graph(nodes, "g", [], [], [stored])
    widen_weights(graph)
    assert [node.op_type for node in graph.node] == ["Cast", "Add"]
    assert graph.initializer[0].data_type == TensorProto.FLOAT16
