"""Two levels on a GPU in numpy: the codes, previews and pictures of the CPU."""

import numpy as np
import pytest

from fake_gpu import FakeDevice, fake_gpu
from illume_runtime.gpu import sessions
from illume_runtime.pipeline import ImageSampling, Pipeline

LEVELS = ImageSampling(
    seed=4,
    guidance=1.5,
    temperature=1.0,
    temperature_level1=0.7,
    top_k=30,
    top_k_level1=20,
    top_p=0.9,
    quality="draft",
    repetition_penalty=1.3,
)
DIFFUSION = ImageSampling(seed=3, guidance=2.0, top_k=50, steps=2, quality="standard", diffusion_guidance=1.5)


@pytest.mark.parametrize(
    "sampling", [LEVELS, pytest.param(DIFFUSION, marks=pytest.mark.slow)], ids=["two samplings", "diffusion"]
)
def test_a_drawing_is_that_of_the_cpu(published_bundle, monkeypatch, sampling):
    device = FakeDevice(memory_bytes=8 << 30)
    monkeypatch.setattr(sessions, "gpu_sessions", lambda bundle, name: fake_gpu(device))
    drawn, previews = [], []
    for name, options in (("cpu", {"threads": 1}), ("cuda", {})):
        with Pipeline.load(published_bundle, device=name, **options) as pipeline:
            shown = []
            drawn += pipeline.draw("two dogs", size="256x256", sampling=sampling, on_preview=shown.append)
            previews += shown
    for expected, got in (drawn, previews):
        for one, other in zip(expected.codes, got.codes, strict=True):
            np.testing.assert_array_equal(one, other)
        difference = np.abs(np.asarray(expected.image, np.int16) - np.asarray(got.image, np.int16))
        assert difference.max() <= 1
