"""Drawings and answers on an NVIDIA GPU."""

import shutil
from functools import partial

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from torch_sessions import torch_sessions

from illume_runtime.cli.main import main
from illume_runtime.gpu import sessions
from illume_runtime.gpu.accelerator import open_accelerator
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling

pytestmark = pytest.mark.gpu
PICTURES = 8


@pytest.fixture(scope="module", params=["cuda", "tensorrt", "torch", "torch, not captured"])
def gpu(bundle, checkpoint, tmp_path_factory, request):
    """A loaded pipeline and its kind. With PyTorch the loops alone are on the GPU: all that is ours, with nothing else
    installed."""
    copied = shutil.copytree(bundle, tmp_path_factory.mktemp("gpu") / "small.bundle")
    if request.param == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime has no CUDA provider")
    if request.param == "tensorrt":
        pytest.importorskip("tensorrt")
        assert main(["build", str(copied), "--target", "tensorrt"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        device = request.param
        if request.param.startswith("torch"):
            patch.setattr(sessions, "gpu_sessions", partial(torch_on_a_gpu, checkpoint, request.param == "torch"))
            device = "cuda"
        with Pipeline.load(copied, device=device) as loaded:
            yield loaded, request.param


def torch_on_a_gpu(checkpoint, is_capturable, bundle, name):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")
    accelerator = open_accelerator()
    return accelerator, torch_sessions(accelerator, checkpoint, bundle, "cuda", is_capturable=is_capturable)


def test_most_pictures_have_the_codes_of_the_cpu(pipeline, gpu):
    """Sums in another order move a draw across the edge of its token now and then, and all that follows it."""
    loaded, device = gpu
    sampling = ImageSampling(seed=5, steps=2)
    got = loaded.draw("a star", n=PICTURES, sampling=sampling)
    expected = pipeline.draw("a star", n=PICTURES, sampling=sampling)
    equal = sum(np.array_equal(one.codes[0], other.codes[0]) for one, other in zip(got, expected, strict=True))
    assert equal >= (PICTURES // 2 if device == "tensorrt" else PICTURES - 2)  # engines are float16


def test_a_drawing_repeats_itself(gpu):
    loaded, _ = gpu
    sampling = ImageSampling(seed=6, steps=2)
    first, again = (loaded.draw("a star", n=2, sampling=sampling) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.codes[0], other.codes[0])
        np.testing.assert_array_equal(np.asarray(one.image), np.asarray(other.image))


def test_an_answer_is_that_of_the_cpu(pipeline, gpu, pictures):
    loaded, device = gpu
    if device == "tensorrt":
        pytest.skip("an engine is float16: the likeliest of random weights' tokens may be another one")
    image, sampling = Image.fromarray(pictures[0]), TextSampling(max_tokens=4)
    assert loaded.describe(image, "what?", sampling=sampling) == pipeline.describe(image, "what?", sampling=sampling)
