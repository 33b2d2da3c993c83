"""TensorRT for RTX makes integer kernels of every quantized layer, for GPUs that are not there."""

import json
import shutil

import onnx
import pytest

from built_engines import OPTIONS, built_engine, check_quantized
from fp8_graph import fp8_from_int8
from illume_export.engines.builder import Options
from illume_runtime.bundle import Bundle
from illume_runtime.cli.main import main
from illume_runtime.engine_record import EngineRecord
from illume_runtime.files import sha256_of
from illume_runtime.typed_json import value_from_json

pytest.importorskip("tensorrt_rtx", reason="needs pip install 'illume-rt[tensorrt-rtx]'")
pytestmark = pytest.mark.engines

STAGES = ("vision_encoder", "decoder", "head_text", "head_level0", "denoiser", "vae_decoder")  # that are quantized
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("8.0", "12.0")]


@pytest.mark.parametrize("capability", [OPTIONS.gpu, *SLOW])
@pytest.mark.parametrize("stage", STAGES)
def test_every_quantized_layer_is_an_integer_kernel(quantized, tmp_path, stage, capability):
    opened = Bundle.open(quantized)
    assert set(opened.manifest.quantization.stages) == set(STAGES)
    how = opened.manifest.quantization.stages[stage]
    record = built_engine(quantized, stage, tmp_path, Options("tensorrt-rtx", capability))
    counts = check_quantized(record, opened.stage_path(stage))
    assert counts == (how.num_layers - len(how.weight_only), len(how.weight_only))
    assert record.attentions == 0 or record.fused == len(record.profiles) * record.attentions


def test_int4_weights_of_a_calibrated_bundle_stay_int4(bundle, tmp_path, capsys):
    output, engines = tmp_path / "w4.bundle", tmp_path / "engines"
    words = ("--set", "decoder.weights=int4", "--set", "decoder.group_size=16", "--set", "decoder.keep=*.down_proj")
    assert main(["calibrate", str(bundle), "--weights-only", *words, "-o", str(output)]) == 0
    build = ["build", str(output), "--target", "tensorrt-rtx", "--compute-capability", OPTIONS.gpu]
    assert main([*build, "--stages", "decoder", "-o", str(engines)]) == 0
    capsys.readouterr()
    record = value_from_json(EngineRecord, json.loads((engines / "decoder.engine.json").read_text()), "")
    opened = Bundle.open(output)
    how = opened.manifest.quantization.stages["decoder"]
    assert (how.weights, how.num_layers) == ("int4", 12)
    assert check_quantized(record, opened.stage_path("decoder"), "Int4") == (0, 12)
    assert (record.fused, record.caches) == (len(record.profiles) * record.attentions, 4)


@pytest.fixture(scope="module")
def eighth(quantized, tmp_path_factory):
    """The bundle with 8-bit floats in place of int8, as another tool may make it."""
    folder = tmp_path_factory.mktemp("fp8") / "small-fp8.bundle"
    shutil.copytree(quantized, folder)
    data = json.loads((folder / "bundle.json").read_text())
    for name in STAGES:
        path = folder / "stages" / f"{name}.onnx"
        model = onnx.load(path)
        fp8_from_int8(model)
        onnx.save(model, path)
        data["files"][f"stages/{name}.onnx"] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / "bundle.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize("stage", ["decoder", "head_text", "denoiser", "vae_decoder"])
def test_8_bit_floats_are_kernels_of_them(eighth, tmp_path, stage):
    opened = Bundle.open(eighth)
    how = opened.manifest.quantization.stages[stage]
    record = built_engine(eighth, stage, tmp_path, Options("tensorrt-rtx", "8.9,12.0"))
    counts = check_quantized(record, opened.stage_path(stage), "FP8")
    assert counts == (how.num_layers - len(how.weight_only), len(how.weight_only))
    assert record.fused == len(record.profiles) * record.attentions


def test_of_few_channels_a_convolution_of_8_bit_floats_is_none(eighth, tmp_path):
    """That of the patches has three: TensorRT for RTX makes it in half precision, from the rounded weights."""
    record = built_engine(eighth, "vision_encoder", tmp_path, Options("tensorrt-rtx", "8.9"))
    kernels = [(layer.dtype, layer.weights) for layer in record.layers if layer.type == "correlation"]
    assert sorted(kernels) == [("FP8", "FP8"), ("FP8", "FP8"), ("Half", "Float")]


def test_8_bit_floats_are_refused_for_gpus_without_them(eighth, tmp_path, capsys):
    words = ["build", str(eighth), "--target", "tensorrt-rtx", "--stages", "head_text,image_tokenizer"]
    assert main([*words, "--compute-capability", "8.6,8.9", "-o", str(tmp_path)]) == 5
    assert (
        "1 of 2 engines failed, the others are kept: head_text: TensorRT cannot build it: the constant "
        "weight.T.int8 is FLOAT8E4M3FN, which GPUs have from compute capability 8.9 on, and not 8.6; calibrate to int8"
    ) in capsys.readouterr().err
