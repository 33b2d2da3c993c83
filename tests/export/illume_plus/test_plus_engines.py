"""Every stage of the small ILLUME+ model, built by TensorRT for RTX for GPUs that are not there."""

from dataclasses import replace

import pytest
from first_calls import first_call, statistics_of_call

from built_engines import built_engine, check_quantized
from illume_calibration.bundle_from_recipe import Source, bundle_from_recipe
from illume_calibration.recipe import default_name, recipe_from_name
from illume_export.engines.builder import Options
from illume_export.engines.profiles import Wanted
from illume_export.families.illume_plus import folders_in, plus_from_folders
from illume_export.families.illume_plus.stages import stages_from_model
from illume_runtime.bundle import Bundle
from illume_runtime.quantization import CalibrationData

pytest.importorskip("tensorrt_rtx", reason="needs pip install 'illume-rt[tensorrt-rtx]'")
pytestmark = pytest.mark.engines

STAGES = {  # how many Attentions each has; the VAE's and the fast decoder's are products, too wide to be fused
    "vision_encoder": 2,
    "decoder": 2,
    "head_text": 0,
    "head_level0": 0,
    "head_level1": 0,
    "image_tokenizer": 3,
    "vq_decoder": 0,
    "conditioner": 0,
    "denoiser": 4,
    "vae_decoder": 0,
}


@pytest.fixture(scope="module")
def published_int8(published_folder, published_bundle, tmp_path_factory):
    """By the shipped recipe, with scales from one call of each stage, which is enough to choose kernels."""
    bundle = Bundle.open(published_bundle)
    stages = stages_from_model(plus_from_folders(folders_in(published_folder)))
    statistics = {stage.name: statistics_of_call(bundle, stage.name, first_call(stage)) for stage in stages}
    recipe = replace(recipe_from_name(default_name(bundle.family)), method="minmax")
    source = Source(bundle, statistics, CalibrationData("first calls", "", len(stages), 0, 0))
    output = tmp_path_factory.mktemp("plus_int8") / "plus-tiny-int8.bundle"
    bundle_from_recipe(source, recipe, output, None, lambda *_: None)
    return output


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage(published_bundle, tmp_path, stage):
    assert set(Bundle.open(published_bundle).stages) == set(STAGES)
    record = built_engine(published_bundle, stage, tmp_path)
    assert record.attentions == STAGES[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_in_int8(published_int8, tmp_path, stage):
    opened = Bundle.open(published_int8)
    how = opened.manifest.quantization.stages[stage]
    record = built_engine(published_int8, stage, tmp_path)
    counts = check_quantized(record, opened.stage_path(stage))
    assert counts == (how.num_layers - len(how.weight_only), len(how.weight_only))
    assert record.attentions == STAGES[stage]


def test_a_picture_of_one_size_takes_less_memory(published_bundle, tmp_path):
    one = Options("tensorrt-rtx", "8.6", Wanted(batch=1, resolutions=("512x512",)))
    record = built_engine(published_bundle, "vae_decoder", tmp_path, one)
    assert record.profiles[0]["latents"] == ((1, 4, 128, 128),) * 3
    assert 0 < record.activation_bytes[0] < 2e8
