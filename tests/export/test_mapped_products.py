"""Products that read their matrices in half precision block by block from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from illume_runtime import mapped_products
from illume_runtime.mapped_products import mapped_bytes_of, mapped_graph, rows_of_block
from illume_runtime.onnx_graph import graph_from_file

ROWS, WIDTH = 24, 16
FOLDER = "session.model_external_initializers_file_folder_path"


def model_of(node: onnx.NodeProto, weight: np.ndarray, path: Path) -> Path:
    """A file with one product of x [M, 16] with Cast(w), and its weights beside it."""
    bias = numpy_helper.from_array(np.arange(ROWS, dtype=np.float32), "b")
    nodes = [helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT), node]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w"), bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    return path


def run(model: bytes | Path, folder: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(FOLDER, str(folder))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    y: np.ndarray = session.run(None, {"x": x})[0]
    return y


PRODUCTS = {
    "MatMul": (helper.make_node("MatMul", ["x", "wide"], ["y"]), (WIDTH, ROWS)),
    "Gemm": (helper.make_node("Gemm", ["x", "wide"], ["y"], transB=1), (ROWS, WIDTH)),
    "Gemm with a bias": (helper.make_node("Gemm", ["x", "wide", "b"], ["y"], transB=1, alpha=1.0), (ROWS, WIDTH)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_those_of_the_whole_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(mapped_products, "BLOCK", 4 * max(ROWS, WIDTH))
    node, shape = PRODUCTS[name]
    random = np.random.default_rng(0)
    path = model_of(node, random.standard_normal(shape).astype(np.float16), tmp_path / "g.onnx")
    mapped = mapped_graph(path.read_bytes())
    assert "Scan" in {node.op_type for node in onnx.load_from_string(mapped).graph.node}
    assert mapped_bytes_of(graph_from_file(path)) == 2 * ROWS * WIDTH
    for count in (1, 2, 7):
        x = random.standard_normal((count, WIDTH)).astype(np.float32)
        np.testing.assert_allclose(run(mapped, tmp_path, x), run(path, tmp_path, x), atol=1e-5)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Gemm", ["x", "wide"], ["y"]),
        helper.make_node("Gemm", ["x", "wide"], ["y"], transB=1, alpha=2.0),
        helper.make_node("MatMul", ["wide", "x"], ["y"]),
        helper.make_node("Add", ["x", "wide"], ["y"]),
    ],
    ids=["not transposed", "scaled", "on the left", "no product"],
)
def test_what_is_no_such_product_stays_as_it_is(tmp_path: Path, node: onnx.NodeProto) -> None:
    path = model_of(node, np.zeros((WIDTH, WIDTH), np.float16), tmp_path / "g.onnx")
    assert mapped_bytes_of(graph_from_file(path)) == 0
    assert onnx.load_from_string(mapped_graph(path.read_bytes())) == onnx.load(path, load_external_data=False)


def test_blocks_are_whole_rows_that_divide_the_matrix() -> None:
    assert rows_of_block(2048, 11_008) == 64
    assert rows_of_block(11_008, 2048) == 344
    assert rows_of_block(2048, 256) == 2048
    assert rows_of_block(7, 1 << 21) == 1
