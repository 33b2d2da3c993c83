"""What the CUDA provider is asked for: our stream, our addresses, and a graph for each binding that repeats."""

from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from fake_gpu import FakeDevice
from illume_runtime import ort as ort_module
from illume_runtime.bundle import Bundle
from illume_runtime.errors import EngineError, MemoryLimitError, UnavailableError
from illume_runtime.gpu import ort_cuda
from illume_runtime.gpu.accelerator import Accelerator

HEAD = "head_level0"


class Binding:
    def __init__(self):
        self.bound = []

    def bind_input(self, *arguments):
        self.bound.append(arguments)

    bind_output = bind_input


@pytest.fixture
def cuda(monkeypatch):
    """What ONNX Runtime was asked for; `elsewhere` are the operators that it has no CUDA kernel for."""
    seen = {"runs": [], "bindings": [], "elsewhere": []}
    real = onnxruntime.InferenceSession

    class Session:
        def __init__(self, path, options, providers, **rest):
            seen["providers"] = providers
            assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
            self._real = real(path, options, providers=["CPUExecutionProvider"], **rest)
            self.get_inputs, self.get_outputs = self._real.get_inputs, self._real.get_outputs

        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self):
            parts = {"CUDAExecutionProvider": ["MatMul", "Softmax"], "CPUExecutionProvider": seen["elsewhere"]}
            return [
                SimpleNamespace(ep_name=name, get_nodes=lambda ops=ops: [SimpleNamespace(op_type=op) for op in ops])
                for name, ops in parts.items()
            ]

        def io_binding(self):
            seen["bindings"].append(Binding())
            return seen["bindings"][-1]

        def run(self, names, feeds, options):
            seen["runs"].append(options)
            return self._real.run(names, feeds)

        def run_with_iobinding(self, binding, options):
            seen["runs"].append(options)

    monkeypatch.setattr(ort_module.ort, "InferenceSession", Session)
    monkeypatch.setattr(ort_module.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    return seen


def opened_stage(bundle, name):
    opened, accelerator = Bundle.open(bundle), Accelerator(FakeDevice(), b"kernels")
    return ort_cuda.ort_cuda_session(opened.stage_path(name), opened.stage(name), accelerator), accelerator


@pytest.fixture
def asked(bundle, cuda):
    """(the session on a fake GPU, the accelerator, what ONNX Runtime was asked for)."""
    return *opened_stage(bundle, HEAD), cuda


def bound(session, accelerator, batch):
    inputs = {name: accelerator.array((batch, 48), np.float32) for name in ("hidden", "hidden_uncond")}
    inputs["guidance"] = accelerator.array((batch,), np.float32)
    logits = accelerator.array((batch, 36), np.float32)
    return session.bind_device(inputs, {"logits": logits}), {**inputs, "logits": logits}


def entries(options):
    names = ("gpu_graph_id", "disable_synchronize_execution_providers")
    return tuple(options.get_run_config_entry(name) for name in names)


def test_it_works_on_our_stream_and_captures_by_itself(asked):
    _, accelerator, seen = asked
    options = {"device_id": "0", "user_compute_stream": str(accelerator.stream.handle), "enable_cuda_graph": "1"}
    assert seen["providers"] == [("CUDAExecutionProvider", options)]


@pytest.mark.parametrize("stage", ["vision_encoder", "image_tokenizer", "vae_decoder"])
def test_a_stage_whose_arrays_are_the_hosts_is_not_captured(bundle, cuda, stage):
    cuda["elsewhere"] = ["Resize"]  # slow there, but it works
    opened_stage(bundle, stage)
    assert "enable_cuda_graph" not in cuda["providers"][0][1]


def test_a_step_that_would_wait_for_the_host_is_refused(bundle, cuda):
    cuda["elsewhere"] = ["Shape", "Gather"]
    opened_stage(bundle, "decoder")
    cuda["elsewhere"] = ["Shape", "TensorScatter", "Attention"]
    with pytest.raises(
        EngineError, match=r"decoder: this ONNX Runtime \(.*\) has no CUDA kernel for Attention, TensorS"
    ):
        opened_stage(bundle, "decoder")


def test_device_memory_is_bound_where_it_lies(asked):
    session, accelerator, seen = asked
    run, arrays = bound(session, accelerator, 2)
    assert not run.is_capturable
    (binding,) = seen["bindings"]
    assert binding.bound == [
        (name, "cuda", 0, array.dtype, list(array.shape), array.address) for name, array in arrays.items()
    ]


def test_a_binding_that_repeats_has_a_graph_of_its_own(asked):
    session, accelerator, seen = asked
    runs = [bound(session, accelerator, batch)[0] for batch in (1, 2)]
    for run in runs:
        for _ in range(4):
            run.enqueue()
    ids = [entries(options)[0] for options in seen["runs"]]
    assert ids[0:2] == ids[4:6] == ["-1", "-1"]
    assert ids[2] == ids[3] != ids[6] == ids[7]
    assert int(ids[2]) > 0
    assert {entries(options)[1] for options in seen["runs"]} == {"1"}  # the host does not wait


def test_host_arrays_are_never_captured_and_waited_for(asked):
    session, _, seen = asked
    feeds = {name: np.ones((2, 48), np.float32) for name in ("hidden", "hidden_uncond")}
    feeds["guidance"] = np.ones(2, np.float32)
    logits = np.zeros((2, 36), np.float32)
    session.bind(feeds, {"logits": logits}).run()
    np.testing.assert_array_equal(logits, session.run(feeds)["logits"])
    assert logits.any()
    assert [entries(options) for options in seen["runs"]] == [("-1", "0")] * 2
    with pytest.raises(EngineError, match="head_level0: "):
        session.run({})


def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(bundle):
    opened = Bundle.open(bundle)
    accelerator = Accelerator(FakeDevice(memory_bytes=64 << 20), b"kernels")
    with pytest.raises(MemoryLimitError, match="decoder takes 0 MB of the GPU's memory, but 0 MB are left"):
        ort_cuda.ort_cuda_session(opened.stage_path("decoder"), opened.stage("decoder"), accelerator)


def test_a_provider_that_is_missing_is_named_before_the_driver_is_asked(bundle, monkeypatch):
    from illume_runtime.gpu.sessions import gpu_sessions

    monkeypatch.setattr(ort_module.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UnavailableError, match="pip uninstall -y onnxruntime && pip install --force"):
        gpu_sessions(Bundle.open(bundle), "cuda")
