"""Both implementations of the device: the real packages over a fake driver, and on a GPU where there is one."""

import importlib
import importlib.util
import json
from pathlib import Path

import contract
import fake_machine
import pytest

CONTRACT = str(Path(contract.__file__))
WHOLE_LOOP = str(Path(contract.__file__).with_name("whole_loop.py"))
PACKAGES = {"cuda_core": "cuda.core", "pycuda": "pycuda"}


def is_installed(package):
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module", params=[("cuda_core", "90"), ("cuda_core", "87"), ("pycuda", "90")], ids="-".join)
def results(request):
    implementation, capability = request.param
    if not is_installed(PACKAGES[implementation]):
        pytest.skip(f"{PACKAGES[implementation]} is not installed")
    if fake_machine.library_folder() is None:
        pytest.skip("g++ is not installed")
    done = fake_machine.run([CONTRACT, implementation], FAKE_CAPABILITY=capability)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", contract.CHECKS)
def test_over_the_fake_driver(results, name):
    assert results[name] is None, results[name]


@pytest.mark.parametrize(("implementation", "capability"), [("cuda-core", "90"), ("cuda-core", "87"), ("pycuda", "90")])
def test_a_whole_drawing_over_the_fake_driver_is_that_of_the_cpu(bundle, implementation, capability):
    """Our CUDA source runs all kernels of both loops, launched, captured and replayed by the real package."""
    package = PACKAGES[implementation.replace("-", "_")]
    if not is_installed(package):
        pytest.skip(f"{package} is not installed")
    if fake_machine.library_folder() is None:
        pytest.skip("g++ is not installed")
    done = fake_machine.run([WHOLE_LOOP, implementation, str(bundle)], FAKE_CAPABILITY=capability)
    assert done.returncode == 0, done.stderr
    got, expected = json.loads(done.stdout)
    assert got == expected


OPENING = "from illume_runtime.gpu.accelerator import open_accelerator as open; open()"


@pytest.mark.parametrize("layer", ["cuda-core", "pycuda"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"FAKE_NO_GPU": "1"}, "UnavailableError: the NVIDIA driver finds no GPU that can be used (cuInit gave 100)"),
        ({"FAKE_CAPABILITY": "72"}, "UnavailableError: the GPU has compute capability 7.2, expected 7.5 or later"),
        (
            {"FAKE_DRIVER": "12040"},
            "UnavailableError: the driver is of CUDA 12.4, the kernels were built for CUDA 13.0; update the driver",
        ),
        ({"FAKE_NO_BINARY": "1"}, "UnavailableError: kernels: the driver cannot run these kernels"),
    ],
    ids=["no GPU", "too old a GPU", "too old a driver", "no binary"],
)
def test_a_machine_that_does_not_do_is_told_so(layer, settings, message):
    if not is_installed(PACKAGES[layer.replace("-", "_")]):
        pytest.skip(f"{layer} is not installed")
    if fake_machine.library_folder() is None:
        pytest.skip("g++ is not installed")
    done = fake_machine.run(["-c", OPENING], ILLUME_DEVICE_LAYER=layer, **settings)
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", PACKAGES)
@pytest.mark.parametrize("name", contract.CHECKS)
def test_on_a_gpu(implementation, name):
    pytest.importorskip(PACKAGES[implementation])
    contract.CHECKS[name](importlib.import_module(f"illume_runtime.device.{implementation}").open_device())
