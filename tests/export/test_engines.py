"""Every stage, built by TensorRT for RTX for GPUs that are not there."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from built_engines import OPTIONS, built_engine, check_quantized, planned_engine
from illume_calibration.layers import layers_of
from illume_calibration.qdq import QuantizedLayer, quantize_graph
from illume_calibration.weights import int4_in_groups
from illume_export.engines import builder
from illume_export.engines.attention import FUSED_WIDTHS
from illume_export.engines.builder import Options, build_engine
from illume_runtime.bundle import Bundle
from illume_runtime.cli.main import main
from illume_runtime.errors import ExportError

pytest.importorskip("tensorrt_rtx", reason="needs pip install 'illume-rt[tensorrt-rtx]'")
pytestmark = pytest.mark.engines

STAGES = ("vision_encoder", "decoder", "head_text", "head_level0", "image_tokenizer", "denoiser", "vae_decoder")
ASSETS = Path(__file__).resolve().parents[2] / "assets"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory):
    output = tmp_path_factory.mktemp("tiny") / "illume-tiny.bundle"
    assert main(["export", str(ASSETS / "illume-tiny"), "-o", str(output)]) == 0
    return output


@pytest.fixture(scope="session")
def tiny_int8(tiny_bundle, tmp_path_factory):
    """By the shipped recipe, with scales from five requests, which is enough to choose kernels."""
    folder = tmp_path_factory.mktemp("tiny_int8")
    lines = (ASSETS / "calibration" / "requests.jsonl").read_text().splitlines()[:6]
    requests = [json.loads(line) for line in lines]
    for request in requests:
        if "image" in request:
            request["image"] = str(ASSETS / "calibration" / request["image"])
    (folder / "requests.jsonl").write_text("".join(json.dumps(request) + "\n" for request in requests))
    output = folder / "illume-tiny-int8.bundle"
    words = ["--data", str(folder / "requests.jsonl"), "-o", str(output), "--method", "minmax", "--threads", "1"]
    assert main(["calibrate", str(tiny_bundle), *words, "--no-gate"]) == 0
    return output


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_of_the_small_model(bundle, tmp_path, stage):
    built_engine(bundle, stage, tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_of_illume_tiny(tiny_bundle, tmp_path, stage):
    built_engine(tiny_bundle, stage, tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_of_illume_tiny_in_int8(tiny_int8, tmp_path, stage):
    opened = Bundle.open(tiny_int8)
    record = built_engine(tiny_int8, stage, tmp_path)
    how = opened.manifest.quantization.stages[stage]
    counts = check_quantized(record, opened.stage_path(stage))
    assert counts == (how.num_layers - len(how.weight_only), len(how.weight_only))
    assert record.fused == len(record.profiles) * record.attentions


def test_the_decoder_of_illume_tiny_in_int4(tiny_bundle, tmp_path):
    output = tmp_path / "illume-tiny-int4.bundle"
    words = ["--weights-only", "--set", "decoder.weights=int4", "-o", str(output)]
    assert main(["calibrate", str(tiny_bundle), *words]) == 0
    opened = Bundle.open(output)
    num_layers = opened.manifest.quantization.stages["decoder"].num_layers
    record = built_engine(output, "decoder", tmp_path)
    assert check_quantized(record, opened.stage_path("decoder"), "Int4") == (0, num_layers)
    assert record.fused == len(record.profiles) * record.attentions


@pytest.mark.parametrize("stage", ["decoder", "vae_decoder"])
def test_a_stage_in_bfloat16(bundle, tmp_path, stage):
    record = built_engine(bundle, stage, tmp_path, precision="bfloat16")
    assert "Half" not in {layer.dtype for layer in record.layers}


def int4_decoder(bundle, folder):
    """The decoder with int4 weights but where groups of 16 rows do not come out even; their number."""
    model = onnx.load(bundle / "stages" / "decoder.onnx")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    grouped = {
        layer.name: QuantizedLayer(int4_in_groups(weights[layer.weight], 16), None, None)
        for layer in layers_of(model.graph)
        if weights[layer.weight].shape[0] % 16 == 0
    }
    quantize_graph(model, grouped)
    onnx.save(model, folder / "int4.onnx")
    return folder / "int4.onnx", len(grouped)


def test_int4_weights_stay_int4(bundle, tmp_path):
    path, num_layers = int4_decoder(bundle, tmp_path)
    record = built_engine(bundle, "decoder", tmp_path, onnx=path)
    assert num_layers == 12
    assert sum(layer.weights == "Int4" for layer in record.layers) == len(record.profiles) * num_layers
    whole = built_engine(bundle, "decoder", tmp_path)
    assert record.weight_bytes < 0.6 * whole.weight_bytes


def test_what_a_gpu_lacks_is_said_with_its_name(bundle, tmp_path):
    path, _ = int4_decoder(bundle, tmp_path)
    with pytest.raises(ExportError, match=r"decoder: TensorRT cannot build it: .*sm75.* HW-specific datatypes: int4"):
        built_engine(bundle, "decoder", tmp_path, Options("tensorrt-rtx", "7.5"), onnx=path)


@pytest.mark.parametrize("width", [FUSED_WIDTHS[0] - 1, FUSED_WIDTHS[0], FUSED_WIDTHS[-1], FUSED_WIDTHS[-1] + 1])
def test_heads_of_these_widths_are_fused(bundle, tmp_path, width):
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 16, width]) for name in ("q", "k", "v", "y")]
    nodes = [helper.make_node("Mul", ["q", "q"], ["x"]), helper.make_node("Attention", ["x", "k", "v"], ["y"])]
    graph = helper.make_graph(nodes, "g", ports[:3], ports[3:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), tmp_path / "g.onnx")
    record = built_engine(bundle, "head_text", tmp_path, onnx=tmp_path / "g.onnx", profiles=[{}])
    assert record.fused == (width in FUSED_WIDTHS)


def test_a_build_is_the_same_twice_and_kept(bundle, tmp_path):
    first = build_engine(planned_engine(bundle, "head_text", tmp_path), OPTIONS)
    assert planned_engine(bundle, "head_text", tmp_path).cached
    assert build_engine(planned_engine(bundle, "head_text", tmp_path), OPTIONS) == first


def test_what_tensorrt_is_asked_for_is_in_the_api_of_its_sibling(bundle, tmp_path, monkeypatch):
    """Timing cache and memory limit, on this builder, which takes them and makes nothing of them."""
    monkeypatch.setitem(builder.MODULES, "tensorrt", "tensorrt_rtx")
    monkeypatch.setitem(builder.OLDEST, "tensorrt", (1, 7))
    options = Options("tensorrt", "8.7", workspace_bytes=1 << 28)
    built_engine(bundle, "decoder", tmp_path, options)
    built_engine(bundle, "head_text", tmp_path, options)  # with the timings of the first
    (cache,) = tmp_path.glob("timings-*-8.7.cache")
    assert cache.read_bytes()
    cache.write_bytes(b"no timings of any builder")
    built_engine(bundle, "head_level0", tmp_path, options)
    assert cache.read_bytes() != b"no timings of any builder"
