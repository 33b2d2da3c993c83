"""Weights alone: a quantized bundle without any data."""

import numpy as np
import onnx
import pytest

from illume_calibration.recipe import recipe_from_name, weights_alone
from illume_runtime.bundle import Bundle
from illume_runtime.cli.main import main
from illume_runtime.pipeline import ImageSampling, Pipeline


@pytest.fixture(scope="module")
def light(bundle, tmp_path_factory):
    """The small bundle with int8 weights alone, made by the command."""
    output = tmp_path_factory.mktemp("light") / "w8.bundle"
    assert main(["calibrate", str(bundle), "--weights-only", "-o", str(output)]) == 0
    return output


def test_only_the_language_model_is_rounded(bundle, light):
    made, source = Bundle.open(light), Bundle.open(bundle)
    stages = made.manifest.quantization.stages
    assert set(stages) == {name for name in source.stages if name == "decoder" or name.startswith("head_")}
    assert {(stage.weights, stage.activations, stage.rounding) for stage in stages.values()} == {
        ("int8", "float32", "nearest")
    }
    for name in source.stages.keys() - stages.keys():
        assert made.stage_path(name).read_bytes() == source.stage_path(name).read_bytes()
        assert made.stage(name) == source.stage(name)
    assert made.table("token_embedding").dtype == np.int8
    ops = [node.op_type for node in onnx.load(made.stage_path("decoder")).graph.node]
    assert "QuantizeLinear" not in ops
    assert ops.count("DequantizeLinear") == stages["decoder"].num_layers
    assert made.manifest.quantization.data.requests == 0
    assert made.manifest.quantization.quality is None


def test_the_bundle_says_that_there_were_no_data(light, illume):
    code, out, _ = illume("info", light)
    assert code == 0
    assert "the weights themselves, no data" in out
    assert "not measured" in out


def test_it_draws_nearly_as_before(bundle, light):
    sampling = ImageSampling(temperature=0.0, steps=1)
    codes = []
    for folder in (bundle, light):
        with Pipeline.load(folder) as pipeline:
            codes.append(pipeline.draw("a star", sampling=sampling)[0].codes[0].ravel())
    assert (codes[0] == codes[1]).mean() > 0.5


def test_int4_by_a_change_of_the_recipe(bundle, tmp_path, illume):
    words = ("--set", "decoder.weights=int4", "--set", "decoder.group_size=16", "--set", "decoder.keep=*.down_proj")
    code, out, err = illume("calibrate", bundle, "--weights-only", *words, "-o", tmp_path / "w4.bundle")
    assert code == 0, err
    assert "not judged; with requests: illume verify " in err
    assert "decoder int4" in " ".join(out.split())
    made = Bundle.open(tmp_path / "w4.bundle")
    assert made.manifest.quantization.stages["decoder"].weights == "int4"
    assert made.manifest.quantization.stages["head_text"].weights == "int8"


def test_with_data_it_is_judged(bundle, data, tmp_path, illume):
    code, out, err = illume("calibrate", bundle, "--weights-only", "--data", data, "-o", tmp_path / "w8.bundle")
    assert code in (0, 6), err
    assert "agreement" in out
    assert Bundle.open(tmp_path / "w8.bundle").manifest.quantization.quality is not None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "ranges of activations need requests"),
        (("--weights-only", "--max-drop", "1"), "--max-drop needs requests"),
        (("--weights-only", "--target-size", "0.3x"), "--target-size needs requests"),
        (("--weights-only", "--report", "r.html"), "--report needs requests"),
    ],
    ids=["ranges", "max-drop", "target-size", "report"],
)
def test_what_needs_data_says_so(bundle, tmp_path, illume, words, reason):
    code, _, err = illume("calibrate", bundle, *words, "-o", tmp_path / "out.bundle")
    assert code == 2
    assert f"--data is missing: {reason}" in err
    assert list(tmp_path.iterdir()) == []


def test_a_stage_outside_the_language_model_stays_as_it_is():
    alone = weights_alone(recipe_from_name("illume"), ["vision_encoder", "decoder", "head_text"])
    assert set(alone.stages) == {"decoder", "head_text", "token_embedding"}
    assert alone.stages["decoder"].activations == "float32"
