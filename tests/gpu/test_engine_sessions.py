"""Engines as sessions: addresses set once, the cache in place, and only engines that are ours and fit."""

import shutil
import sys

import fake_tensorrt
import pytest

from fake_gpu import FakeDevice
from illume_runtime.bundle import Bundle
from illume_runtime.errors import EngineError, MemoryLimitError, UnavailableError
from illume_runtime.gpu import sessions
from illume_runtime.gpu.accelerator import Accelerator
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling


@pytest.fixture
def copied(bundle, tmp_path):
    """The bundle in a folder of its own, as engines are written beside it."""
    return Bundle.open(shutil.copytree(bundle, tmp_path / "small.bundle"))


@pytest.fixture
def machine(copied, monkeypatch):
    """A fake GPU with a fake TensorRT; the function loads the pipeline."""

    def load(target="tensorrt", version="11.0", memory_bytes=1 << 30):
        device = FakeDevice(memory_bytes=memory_bytes)
        accelerator = Accelerator(device, b"kernels")
        module = fake_tensorrt.fake_module(copied, {accelerator.stream.handle: accelerator.stream}, version)
        monkeypatch.setitem(sys.modules, {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}[target], module)
        monkeypatch.setattr(sessions, "open_accelerator", lambda: accelerator)
        return Pipeline.load(copied, device="tensorrt"), device

    return load


def codes_of(pictures):
    return [[level.tolist() for level in picture.codes] for picture in pictures]


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_pictures_and_answers_are_those_of_the_cpu(pipeline, copied, machine, pictures, target):
    from PIL import Image

    fake_tensorrt.write_engines(
        copied, target=target, gpu="8.9,9.0" if target == "tensorrt-rtx" else fake_tensorrt.HERE
    )
    gpu, device = machine(target)
    sampling = ImageSampling(seed=5, steps=3, diffusion_guidance=2.0)
    expected = pipeline.draw("a star", n=3, sampling=sampling)  # more than the engines take at once
    assert codes_of(gpu.draw("a star", n=3, sampling=sampling)) == codes_of(expected)
    assert device.calls["capture engine"] > 0
    image = Image.fromarray(pictures[1])
    answer = gpu.describe(image, "what?", sampling=TextSampling(max_tokens=5))
    assert answer == pipeline.describe(image, "what?", sampling=TextSampling(max_tokens=5))


def test_without_engines_it_says_what_to_run(machine):
    with pytest.raises(EngineError, match=r"device tensorrt: there are no engines in .*; run: illume build BUNDLE"):
        machine()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"gpu": "9.0 (fake H200, 5 multiprocessors)"},
            r"was built for GPU 9\.0 \(fake H200, 5 multiprocessors\), expected 9\.0 \(fake GPU, 4 multiprocessors\); "
            r"run: illume build BUNDLE --target tensorrt",
        ),
        ({"builder": "10.9"}, r"was built for builder 10\.9, expected 11\.0; run: illume build"),
    ],
)
def test_an_engine_from_elsewhere_is_refused(copied, machine, changes, message):
    fake_tensorrt.write_engines(copied, **changes)
    with pytest.raises(EngineError, match=message):
        machine()


def test_an_engine_for_other_gpus_of_rtx_is_refused(copied, machine):
    fake_tensorrt.write_engines(copied, target="tensorrt-rtx", gpu="8.6,8.9")
    with pytest.raises(EngineError, match=r"was built for GPU 8\.6,8\.9, expected 9\.0; run: .* tensorrt-rtx"):
        machine("tensorrt-rtx")


def test_a_changed_byte_is_refused(copied, machine):
    engine = fake_tensorrt.write_engines(copied) / "decoder.engine"
    engine.write_bytes(engine.read_bytes() + b" ")
    with pytest.raises(EngineError, match=r"decoder.engine: its bytes are not those that were built; run: illume bui"):
        machine()


def test_an_engine_that_tensorrt_cannot_load_is_refused(copied, machine):
    engine = fake_tensorrt.write_engines(copied) / "decoder.engine"
    engine.write_bytes(b"of another version")
    fake_tensorrt.record(engine, copied)
    with pytest.raises(EngineError, match="TensorRT cannot load it: the version is another one; run: illume build"):
        machine()


def test_an_engine_that_does_not_fit_the_memory_is_refused(copied, machine):
    fake_tensorrt.write_engines(copied)
    with pytest.raises(MemoryLimitError, match="decoder: its engine takes 0 MB of the GPU's memory, but 0 MB are left"):
        machine(memory_bytes=64 << 20)


def test_a_run_that_is_refused_is_an_error(copied, machine):
    fake_tensorrt.write_engines(copied, refuses="no kernel for this shape")
    gpu, _ = machine()
    with pytest.raises(EngineError, match="decoder: TensorRT refuses the run: no kernel for this shape"):
        gpu.draw("a star")


def test_an_engine_that_runs_out_of_memory_is_a_memory_error(copied, machine):
    fake_tensorrt.write_engines(copied, refuses="[defaultAllocator.cpp] Requested amount of GPU memory: out of memory")
    gpu, _ = machine()
    with pytest.raises(MemoryLimitError, match="decoder: TensorRT refuses the run: the GPU is out of memory; ask for"):
        gpu.draw("a star")


def test_a_prompt_takes_the_first_profile_and_its_steps_the_second(copied, machine):
    fake_tensorrt.write_engines(copied)
    gpu, _ = machine()
    gpu.draw("a star", sampling=ImageSampling(steps=1))
    assert gpu._model.stages["decoder"].engine.profiles_taken == [
        0,
        1,
        1,
    ]  # of the prompt, of one token, of a row's end


def test_more_rows_than_an_engine_takes_go_in_parts(pipeline, copied, machine, pictures):
    from PIL import Image

    fake_tensorrt.write_engines(copied, batch=1)
    gpu, _ = machine()
    images = [Image.fromarray(picture) for picture in pictures[:3]]
    sampling = TextSampling(max_tokens=4, temperature=1.0, seed=2)
    expected = pipeline.describe_many(images, ["what?"] * 3, sampling=sampling)
    assert gpu.describe_many(images, ["what?"] * 3, sampling=sampling) == expected


def test_a_longer_prompt_than_an_engine_takes_is_refused(copied, machine):
    fake_tensorrt.write_engines(copied, longest=8)
    gpu, _ = machine()
    with pytest.raises(EngineError, match=r"decoder: the engine was not built for .*; ask for fewer at once, or build"):
        gpu.draw("a star")


@pytest.mark.engines
@pytest.mark.parametrize(
    ("ours", "real", "properties"),
    [
        (fake_tensorrt.Engine, "ICudaEngine", ["num_io_tensors", "num_optimization_profiles"]),
        (fake_tensorrt.Context, "IExecutionContext", []),
        (fake_tensorrt.Runtime, "Runtime", []),
    ],
    ids=["engine", "context", "runtime"],
)
def test_the_real_package_has_all_that_the_fake_one_is_asked_for(ours, real, properties):
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
    methods = [name for name in vars(ours) if not name.startswith("_")]
    assert methods
    assert not [name for name in methods + properties if not hasattr(getattr(tensorrt_rtx, real), name)]
    assert tensorrt_rtx.ExecutionContextAllocationStrategy.USER_MANAGED is not None


def test_without_tensorrt_it_says_what_to_install(copied, machine, monkeypatch):
    fake_tensorrt.write_engines(copied)
    monkeypatch.setattr(sessions, "open_accelerator", lambda: Accelerator(FakeDevice(), b"kernels"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UnavailableError, match=r"device tensorrt: the package tensorrt cannot be loaded .*\[tensorrt"):
        Pipeline.load(copied, device="tensorrt")
