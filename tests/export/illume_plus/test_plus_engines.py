"""Every stage of the small ILLUME+ model, built by TensorRT for RTX for GPUs that are not there."""

import pytest

from built_engines import built_engine
from illume_export.engines.builder import Options
from illume_export.engines.profiles import Wanted
from illume_runtime.bundle import Bundle

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


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage(published_bundle, tmp_path, stage):
    assert set(Bundle.open(published_bundle).stages) == set(STAGES)
    record = built_engine(published_bundle, stage, tmp_path)
    assert record.attentions == STAGES[stage]


def test_a_picture_of_one_size_takes_less_memory(published_bundle, tmp_path):
    one = Options("tensorrt-rtx", "8.6", Wanted(batch=1, resolutions=("512x512",)))
    record = built_engine(published_bundle, "vae_decoder", tmp_path, one)
    assert record.profiles[0]["latents"] == ((1, 4, 128, 128),) * 3
    assert 0 < record.activation_bytes[0] < 2e8
