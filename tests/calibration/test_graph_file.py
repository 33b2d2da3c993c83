import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from illume_calibration.constants import complete, is_beside
from illume_calibration.graph_file import graph_from_stage, lean_graph_from_stage, size_of
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


@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16], ids=["float16", "bfloat16"])
def test_constants_beside_the_file_are_read_when_they_are_wanted(tmp_path, half):
    weight = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)

    def stored(name, values):
        raw = values.astype(helper.tensor_dtype_to_np_dtype(half)).tobytes()
        return helper.make_tensor(name, half, values.shape, raw, raw=True)

    constants = [stored("up.weight", weight), stored("down.weight", weight), stored("kept", weight[1])]
    constants.append(numpy_helper.from_array(weight[0], "bias"))
    nodes = [
        helper.make_node("Cast", ["up.weight"], ["up.float"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["down.weight"], ["down.float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "up.float"], ["a"]),
        helper.make_node("Gemm", ["a", "down.float", "bias"], ["b"], transB=1),
        helper.make_node("Cast", ["kept"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["double"], ["scale"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["b", "scale"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 2]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], constants))
    whole = {tensor.name: numpy_helper.to_array(tensor) for tensor in constants}
    onnx.save(model, tmp_path / "s.onnx", save_as_external_data=True, location="s.onnx.data", size_threshold=0)
    spec = StageSpec("s", "s.onnx", 23, (), (), 8, 4, Flops("call", 0), "", None)
    lean = lean_graph_from_stage(tmp_path, spec)
    beside = {tensor.name for tensor in lean.graph.initializer if is_beside(tensor)}
    assert beside == {"up.weight", "bias", "kept"}  # the transposed one was wanted
    up, down = layers_of(lean.graph)
    assert np.array_equal(weight_of(lean.graph, up), weight)
    assert np.array_equal(weight_of(lean.graph, down), weight.T)
    complete(lean.graph)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in lean.graph.initializer}
    assert found["up.weight"].dtype == np.float32
    assert found["kept"].dtype == whole["kept"].dtype
    assert np.array_equal(found["bias"], weight[0])
    assert lean == graph_from_stage(tmp_path, spec)


def test_a_cast_to_half_precision_stays():
    from illume_calibration.graph_file import widen_weights

    stored = numpy_helper.from_array(np.ones(2, np.float16), "w")
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT), helper.make_node("Add", ["w", "w"], ["z"])]
    graph = helper.make_graph(nodes, "g", [], [], [stored])
    widen_weights(graph)
    assert [node.op_type for node in graph.node] == ["Cast", "Add"]
    assert graph.initializer[0].data_type == TensorProto.FLOAT16
