"""The decoder's graph with one node for the attention of a layer, beside the graph that the bundle holds."""

import shutil

import numpy as np
import onnx
import pytest

from decoder_steps import decoder_steps
from illume_runtime import ort as ort_module
from illume_runtime.bundle import Bundle
from illume_runtime.cpu_decoder import cpu_decoder
from illume_runtime.errors import InvalidBundleError
from illume_runtime.ort import cpu_session

SPLIT = {"Reshape", "Transpose", "RotaryEmbedding", "TensorScatter", "Attention", "Where", "GatherND"}


@pytest.fixture(scope="module")
def opened(bundle):
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def decoder(opened):
    return opened.stage_path("decoder")


def session_of(opened, path=None):
    return cpu_session(path or opened.stage_path("decoder"), opened.stage("decoder"), 1)


@pytest.fixture(scope="module")
def as_exported(opened):
    """The steps of the graph as the bundle holds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort_module, "cpu_decoder", lambda path: None)
        return decoder_steps(session_of(opened))


def same(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)  # float32 sums in another order


def test_a_layer_has_one_node_for_its_attention(opened, decoder):
    ops = [node.op_type for node in onnx.load_from_string(cpu_decoder(decoder)).graph.node]
    assert ops.count("GroupQueryAttention") == opened.model.num_layers
    assert SPLIT.isdisjoint(ops)
    assert ops.count("MatMul") == 7 * opened.model.num_layers


def test_weights_are_not_copied(decoder):
    graph = onnx.load_from_string(cpu_decoder(decoder)).graph
    inside = sum(len(tensor.raw_data) for tensor in graph.initializer)
    assert inside < 1000 < decoder.stat().st_size
    assert {
        entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"
    } == {decoder.name}


@pytest.mark.parametrize("packed", [True, False], ids=["weights packed", "weights mapped"])
def test_it_gives_the_same_states_and_caches(opened, as_exported, monkeypatch, packed):
    monkeypatch.setattr(ort_module, "fits", lambda num_bytes: packed)
    same(decoder_steps(session_of(opened)), as_exported)


def test_weights_beside_the_file_stay_there(opened, decoder, tmp_path, as_exported):
    path = tmp_path / "decoder.onnx"
    model = onnx.load(decoder)
    onnx.save(model, path, save_as_external_data=True, location="decoder.onnx.data", size_threshold=64)
    assert b"decoder.onnx.data" in cpu_decoder(path)
    same(decoder_steps(session_of(opened, path)), as_exported)


def changed(op, attribute, value):
    def change(model):
        node = next(node for node in model.graph.node if node.op_type == op)
        kept = [one for one in node.attribute if one.name != attribute]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(attribute, value)])

    return change


def without_rotation(model):
    rotation = next(node for node in model.graph.node if node.op_type == "RotaryEmbedding")
    rotation.op_type = "Identity"
    del rotation.input[1:]


def narrow_heads(model):
    sizes = [tensor for tensor in model.graph.initializer if tensor.raw_data == np.int64(16).tobytes()]
    assert sizes
    for tensor in sizes:
        tensor.raw_data = np.int64(8).tobytes()


@pytest.mark.parametrize(
    "change",
    [
        changed("Attention", "softcap", 30.0),
        changed("RotaryEmbedding", "interleaved", 1),
        changed("TensorScatter", "mode", "circular"),
        changed("TensorScatter", "axis", 1),
        changed("Transpose", "perm", [0, 3, 1, 2]),
        without_rotation,
        narrow_heads,
    ],
    ids=["softcap", "neighbours rotated", "circular cache", "another axis", "another order", "not rotated", "width 8"],
)
def test_another_graph_stays_as_it_is(decoder, tmp_path, change):
    model = onnx.load(decoder)
    change(model)
    path = tmp_path / "decoder.onnx"
    onnx.save(model, path)
    assert cpu_decoder(path) is None


def test_a_graph_without_attention_stays_as_it_is(opened):
    assert cpu_decoder(opened.stage_path("head_text")) is None


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x0b"], ids=["empty", "text", "no graph"])
def test_what_is_no_graph_is_an_invalid_bundle(tmp_path, content):
    path = tmp_path / "decoder.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidBundleError, match=r"decoder\.onnx: no ONNX file: .*export the checkpoint again"):
        cpu_decoder(path)


def test_a_decoder_that_is_cut_off_is_an_invalid_bundle(decoder, tmp_path):
    path = tmp_path / "decoder.onnx"
    shutil.copy(decoder, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    with pytest.raises(InvalidBundleError, match="behind its message"):
        cpu_decoder(path)
