"""The GPU's benchmark: refused in one line without a GPU; what it measures runs on a GPU in numpy."""

import pytest

from benchmarks import gpu as benchmark
from fake_gpu import FakeDevice
from illume_runtime.device import driver
from illume_runtime.errors import QualityError
from illume_runtime.gpu.accelerator import Accelerator

SMALL = benchmark.Sizes(launches=2, replays=1, bandwidth_bytes=1 << 10, batches=(1, 2), num_tokens=50)


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(driver, "LIBRARY", "libnodriver.so.1")
    assert benchmark.main(["--quick"]) == 3
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("benchmarks.gpu: no NVIDIA driver")
    assert output.err.count("\n") == 1


def test_every_kernel_is_timed(capsys):
    results = benchmark.measured(Accelerator(FakeDevice(), b"kernels"), SMALL)
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
        benchmark.sampler_launches(Accelerator(device, b"kernels"), 1, 50, 7)
