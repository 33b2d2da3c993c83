"""Sessions: the device asked for or an error, graphs that are what the manifest says, errors with a type."""

import dataclasses
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from illume_runtime import ort as ort_module
from illume_runtime.bundle import Bundle
from illume_runtime.errors import EngineError, InvalidBundleError, MemoryLimitError, UnavailableError, UsageError
from illume_runtime.ort import cpu_session, cuda_session
from illume_runtime.session import session_from_stage

HEAD = "head_level0"


@pytest.fixture(scope="module")
def opened(bundle):
    return Bundle.open(bundle)


@pytest.fixture
def session(opened):
    return cpu_session(opened.stage_path(HEAD), opened.stage(HEAD), 1)


def feeds(batch=2):
    hidden = np.random.default_rng(0).standard_normal((batch, 48)).astype(np.float32)
    return {"hidden": hidden, "hidden_uncond": hidden, "guidance": np.ones(batch, np.float32)}


def test_bound_runs_give_what_plain_runs_give(session):
    inputs = feeds()
    logits = np.zeros((2, 36), np.float32)
    bound = session.bind(inputs, {"logits": logits})
    for _ in range(2):
        bound.run()
        np.testing.assert_array_equal(logits, session.run(inputs)["logits"])
        inputs["hidden"] *= 2  # read anew in the next run


@pytest.mark.parametrize(("device", "error"), [("gpu", UsageError), ("", UsageError), ("tensorrt", UnavailableError)])
def test_a_device_is_never_replaced_by_another(opened, device, error):
    with pytest.raises(error, match=f"device.*{device}"):
        session_from_stage(opened.stage_path(HEAD), opened.stage(HEAD), device, 1)


def not_installed(name):
    raise PackageNotFoundError(name)


def test_cuda_without_its_provider_says_what_to_install(opened, monkeypatch):
    monkeypatch.setattr(ort_module.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("importlib.metadata.version", not_installed)
    with pytest.raises(
        UnavailableError,
        match=r"no CUDA provider; run: pip install 'illume-rt\[cuda\]' && pip uninstall -y onnxruntime &",
    ):
        session_from_stage(opened.stage_path(HEAD), opened.stage(HEAD), "cuda", 1)


def test_cuda_whose_files_were_overwritten_says_how_to_get_them_back(opened, monkeypatch):
    """pip installs onnxruntime and onnxruntime-gpu into the same folder."""
    monkeypatch.setattr(ort_module.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.31.1")
    with pytest.raises(
        UnavailableError, match="lie over those of onnxruntime-gpu, in the same folder; run: pip uninst"
    ):
        session_from_stage(opened.stage_path(HEAD), opened.stage(HEAD), "cuda", 1)


def test_a_cuda_library_that_is_missing_is_named(opened, monkeypatch):
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(ort_module.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort_module.ort, "preload_dlls", lambda: print("Failed to load libcublasLt.so.13\nand more"))
    monkeypatch.setattr(
        ort_module.ort,
        "InferenceSession",
        lambda path, options, providers, **rest: real(path, options, providers=["CPUExecutionProvider"], **rest),
    )
    ort_module._load_cuda_libraries.cache_clear()
    try:
        with pytest.raises(UnavailableError, match=r"run illume doctor: Failed to load libcublasLt\.so\.13$"):
            cuda_session(opened.stage_path(HEAD), opened.stage(HEAD), 1)
    finally:
        ort_module._load_cuda_libraries.cache_clear()


def test_before_1_32_the_decoder_runs_as_it_was_exported(opened, monkeypatch):
    """onnxruntime-gpu lags behind, and its CPU draws too."""
    monkeypatch.setattr(ort_module.ort, "__version__", "1.32.0")
    assert ort_module.attends_by_counts()
    monkeypatch.setattr(ort_module, "cpu_decoder", lambda path: pytest.fail("rewritten"))
    monkeypatch.setattr(ort_module.ort, "__version__", "1.31.1")
    session_from_stage(opened.stage_path("decoder"), opened.stage("decoder"), "cpu", 1)


def test_cuda_that_falls_back_to_the_cpu_is_refused(opened, monkeypatch):
    """ONNX Runtime built for CUDA, on a machine without a GPU."""
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(ort_module.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        ort_module.ort,
        "InferenceSession",
        lambda path, options, providers, **rest: real(path, options, providers=["CPUExecutionProvider"], **rest),
    )
    with pytest.raises(UnavailableError, match="asked for CUDAExecutionProvider, ONNX Runtime gave CPUExecution"):
        cuda_session(opened.stage_path(HEAD), opened.stage(HEAD), 1)


def changed_port(spec, kind, **values):
    ports = getattr(spec, kind)
    return dataclasses.replace(spec, **{kind: (dataclasses.replace(ports[0], **values), *ports[1:])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: changed_port(s, "inputs", name="x"), "the graph has hidden float32 .*, expected x float32"),
        (lambda s: changed_port(s, "inputs", dtype="float16"), "expected hidden float16"),
        (lambda s: changed_port(s, "inputs", shape=("B", 49)), r"has hidden float32 \['B', 48\], expected hidden flo"),
        (lambda s: changed_port(s, "outputs", shape=("B",)), r"expected logits float32 \['B'\]"),
        (lambda s: dataclasses.replace(s, inputs=s.inputs[:2]), "has guidance float32 .*, expected no more"),
        (lambda s: dataclasses.replace(s, outputs=s.outputs * 2), "the graph has no more, expected logits"),
    ],
    ids=["name", "type", "size", "rank", "one too few", "one too many"],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(opened, change, message):
    with pytest.raises(InvalidBundleError, match=rf"stages\.{HEAD}\.(in|out)puts: .*{message}"):
        cpu_session(opened.stage_path(HEAD), change(opened.stage(HEAD)), 1)


@pytest.mark.parametrize("content", [b"", b"no graph", None], ids=["empty", "text", "cut"])
def test_a_file_that_is_no_graph_is_an_engine_error(opened, tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(opened.stage_path(HEAD).read_bytes()[:-100] if content is None else content)
    with pytest.raises(EngineError, match=r"head_level0: ONNX Runtime cannot load x\.onnx: "):
        cpu_session(path, opened.stage(HEAD), 1)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": np.zeros((2, 47), np.float32)},
        {"hidden": np.zeros((2, 48), np.float64)},
        {"hidden": np.zeros((2, 2, 48), np.float32)},
    ],
    ids=["width", "type", "rank"],
)
def test_wrong_arrays_are_an_engine_error(session, change):
    with pytest.raises(EngineError, match="head_level0: "):
        session.run({**feeds(), **change})
    with pytest.raises(EngineError, match="head_level0: "):
        session.bind({**feeds(), **change}, {"logits": np.zeros((2, 36), np.float32)}).run()


def test_an_unknown_name_is_an_engine_error(session):
    with pytest.raises(EngineError, match="head_level0: "):
        session.bind({"x": np.zeros(1, np.float32)}, {})
    with pytest.raises(EngineError, match="head_level0: "):
        session.run({})


def test_an_array_with_gaps_cannot_be_bound(session):
    with pytest.raises(ValueError, match="head_level0: an array is not contiguous; bind one that is"):
        session.bind({**feeds(), "hidden": np.zeros((2, 96), np.float32)[:, ::2]}, {})


@pytest.mark.parametrize("words", ["std::bad_alloc", "Failed to allocate memory for requested buffer of size 9"])
def test_a_lack_of_memory_has_its_own_error(session, monkeypatch, words):
    class Failing:
        def run(self, *args):
            raise onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException(words)

    monkeypatch.setattr(session, "_session", Failing())
    with pytest.raises(MemoryLimitError, match="head_level0: out of memory; draw fewer pictures at once"):
        session.run(feeds())


def test_a_small_stage_of_the_token_loop_has_one_thread(opened, monkeypatch):
    asked = []
    monkeypatch.setattr("illume_runtime.ort.OrtSession", lambda path, spec, provider, threads: asked.append(threads))
    large = dataclasses.replace(opened.stage("decoder"), weight_bytes=1 << 30)
    for spec in (opened.stage("decoder"), opened.stage(HEAD), opened.stage("denoiser"), large):
        cpu_session(Path("unused"), spec, 4)
    assert asked == [1, 1, 4, 4]
