"""The GPU's benchmark: refused in one line without a GPU; what it measures runs on a GPU in numpy."""

import json

import pytest

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu.kernels import sampler_launches
from benchmarks.gpu.loops import our_loops
from benchmarks.gpu.timing import Limits, Sizes
from fake_gpu import FakeDevice, fake_gpu
from illume_runtime.bundle import Bundle
from illume_runtime.device import driver
from illume_runtime.errors import QualityError, UnavailableError
from illume_runtime.gpu import sessions
from illume_runtime.gpu.accelerator import Accelerator

SMALL = Sizes(launches=2, replays=1, bandwidth_bytes=1 << 10, batches=(1, 2), num_tokens=50, pictures=2)
LIMITS = Limits(1e9, 1.0)


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(driver, "LIBRARY", "libnodriver.so.1")
    assert benchmark.main(["--quick"]) == 3
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("benchmarks.gpu: no NVIDIA driver")
    assert output.err.count("\n") == 1


def test_every_kernel_is_timed(capsys):
    gpu = Accelerator(FakeDevice(), b"kernels")
    results = benchmark.kernel_results(gpu, benchmark.measured_limits(gpu, SMALL), SMALL)
    names = [one["name"] for one in results["kernels"]]
    samples = [f"{segment} B={batch} sample" for segment in ("semantic", "pixel") for batch in (1, 2)]
    assert [name for name in names if name.endswith("sample")] == samples
    assert names[-1] == "guidance_step"
    assert all(one["median_us"] > 0 and one["ratio"] > 0 for one in results["kernels"])
    assert "floor" in capsys.readouterr().out


def test_a_token_that_differs_from_the_definition_stops_it(monkeypatch):
    device = FakeDevice()
    run = device.run_kernel

    def wrong(launch):
        run(launch)
        if launch.symbol == "sample_cluster":
            from fake_gpu import view

            view(launch.arguments[-3], "int32", 1)[0] += 1

    device.run_kernel = wrong
    with pytest.raises(QualityError, match=r"sample: got .*, the definition gives"):
        sampler_launches(Accelerator(device, b"kernels"), 1, 50, 7)


def test_our_loops_are_timed_with_what_the_device_did(bundle, monkeypatch, tmp_path):
    monkeypatch.setattr(sessions, "gpu_sessions", lambda bundle, name: fake_gpu())
    loops = our_loops(Bundle.open(bundle), "cuda", SMALL, 1e9, tmp_path / "trace.json")
    assert [(loop.side, loop.loop) for loop in loops] == [
        ("illume-rt cuda", name) for name in ("tokens", "diffusion", "picture")
    ]
    tokens, diffusion, picture = loops
    assert picture.median_ms > max(tokens.median_ms, diffusion.median_ms)
    assert picture.device_ms is None
    weights = Bundle.open(bundle).stage("denoiser").weight_bytes
    assert diffusion.floor_ms == pytest.approx(2 * weights / 1e9 * 1e3)  # two steps
    assert tokens.device_ms > 0
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert "device" in [event["args"]["name"] for event in events if event["name"] == "thread_name"]


def test_a_device_that_cannot_be_had_is_named_and_the_others_are_timed(bundle, monkeypatch, capsys):
    def open_gpu(bundle, name):
        if name == "tensorrt":
            raise UnavailableError("device tensorrt: there are no engines")
        return fake_gpu()

    monkeypatch.setattr(sessions, "gpu_sessions", open_gpu)
    monkeypatch.setattr(benchmark, "open_accelerator", lambda name: Accelerator(FakeDevice(), b"kernels"))
    monkeypatch.setattr(benchmark, "Sizes", lambda **given: SMALL)
    assert benchmark.main(["--quick", "--bundle", str(bundle)]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert results["refused"] == {"tensorrt": "device tensorrt: there are no engines"}
    assert {loop["side"] for loop in results["loops"]} == {"illume-rt cuda"}
