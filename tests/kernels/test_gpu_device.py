"""The way of the kernel tests over a GPU, tried without one: on stand-ins, and with cuda-core over the fake driver."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))

import fake_machine
import numpy as np
import pytest
from addresses import TAKEN, address
from cpu_device import compiled
from gpu_device import GpuDevice
from sample_case import CLUSTER_GPU, GROUP_GPU

from illume_kernels.launch import Gpu, Launch

HERE = Path(__file__).parent

# ---- on a stand-in


class Machine:
    """Device, stream and module in one; its memory is the host's, and `kernel` gets the launch."""

    name, compute_capability = "a stand-in", (8, 7)

    def __init__(self, kernel, gpu=GROUP_GPU):
        self.kernel, self.gpu = kernel, gpu

    def stream(self):
        return self

    def module(self, image):
        return image

    def allocate(self, num_bytes):
        self.memory = np.zeros(num_bytes, np.uint8)
        return SimpleNamespace(address=self.memory.ctypes.data)

    def upload(self, target, source):
        assert target == self.memory.ctypes.data
        self.memory[:] = source

    def download(self, target, source):
        target[:] = self.memory

    def launch(self, module, launch):
        self.kernel(*(int(argument) - self.memory.ctypes.data for argument in launch.arguments), self.memory)

    def synchronize(self):
        pass


def launch_of(*arguments, **changes):
    given = {"symbol": "any", "grid": (1, 1, 1), "block": 32, "cluster": 1, "shared_bytes": 0, "num_bytes": 0}
    return Launch(**{**given, "arguments": tuple(np.uint64(a) for a in arguments), **changes})


def run_on(kernel, *arguments):
    GpuDevice(Machine(kernel), lambda capability: b"").run(launch_of(*arguments))


def test_arrays_go_there_and_come_back():
    given, got, absent = np.arange(5, dtype=np.uint8), np.zeros((5, 1), np.uint8), np.zeros(3)
    address(absent)

    def kernel(source, target, memory):
        memory[target : target + 5] = memory[source : source + 5] + 1
        memory[source] = 9

    run_on(kernel, address(given), address(got))
    assert got[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert given.tolist() == [9, 1, 2, 3, 4]
    assert not absent.any()


@pytest.mark.parametrize("beside", [-1, 5])
def test_writing_beside_an_array_is_an_error(beside):
    def kernel(target, memory):
        memory[target + beside] = 0

    with pytest.raises(AssertionError, match="any wrote beside its arrays"):
        run_on(kernel, address(np.zeros(5, np.uint8)))


def test_an_array_lies_as_aligned_as_on_the_host():
    whole = np.zeros(64, np.uint8)
    first = -whole.ctypes.data % 16
    parts = [whole[first + offset :][:4] for offset in (0, 1, 8)]

    def kernel(*arguments):
        *targets, memory = arguments
        assert [(memory.ctypes.data + target) % 16 for target in targets] == [0, 1, 8]

    run_on(kernel, *map(address, parts))


def test_addresses_that_were_not_taken_are_refused():
    array = np.zeros(100)
    with pytest.raises(AssertionError, match="`address` did not give"):
        run_on(None, array.ctypes.data)
    with pytest.raises(AssertionError, match="`address` did not give"):
        run_on(None, address(array) + 8)


def test_the_address_of_what_is_not_contiguous_is_refused():
    with pytest.raises(ValueError, match=r"strides \(16,\), expected a contiguous array"):
        address(np.zeros(10)[::2])


def test_a_longer_array_at_the_same_address_counts():
    array = np.zeros(10, np.uint8)
    assert address(array[:2]) == address(array) == address(array[:3])
    assert TAKEN[array.ctypes.data].nbytes == 10


ORIN, TURING = GROUP_GPU, Gpu((7, 5), 40, 64 << 10)


@pytest.mark.parametrize(
    ("gpu", "changes", "reason"),
    [
        (CLUSTER_GPU, {"symbol": "sample_cluster", "cluster": 8}, None),
        (ORIN, {"symbol": "sample_cluster"}, "clusters are of SM 9.0"),
        (TURING, {"shared_bytes": 64 << 10}, None),
        (TURING, {"shared_bytes": (64 << 10) + 1}, "more than it has"),
        (ORIN, {"symbol": "sample_group", "grid": (16, 1, 1), "block": 512}, None),
        (ORIN, {"symbol": "sample_group", "grid": (16, 8, 1), "block": 64, "shared_bytes": 19_000}, None),
        (ORIN, {"symbol": "sample_group", "grid": (17, 1, 1), "block": 512}, "do not fit at once"),
        (ORIN, {"symbol": "sample_group", "grid": (2, 33, 1), "shared_bytes": 40_000}, "do not fit at once"),
        (ORIN, {"symbol": "sample_group", "grid": (1, 999, 1), "block": 512}, None),
        (ORIN, {"symbol": "sample_gumbel", "grid": (17, 1, 1), "block": 512}, None),
    ],
)
def test_what_a_gpu_cannot_launch_is_skipped_and_nothing_else(gpu, changes, reason):
    on = GpuDevice(Machine(None, gpu), lambda capability: b"")
    if reason is None:
        assert on.why_not(launch_of(**changes)) is None
        return
    with pytest.raises(pytest.skip.Exception, match=f"a stand-in: .*{reason}"):
        on.run(launch_of(**changes))


# ---- over the fake driver

SAMPLE_TESTS = str(HERE / "test_sample_kernel.py")
OTHER_TESTS = [str(HERE / f"test_{name}.py") for name in ("gumbel_kernel", "head_kernel", "step_kernels")]
SOME = "cuda-core and (not sample_kernel or ties or penalty or replays or border or depends)"
DOES_NOTHING = """
#include <dlfcn.h>
#include <stddef.h>
const char* illume_launch() { return 0; }
size_t illume_argument_sizes(const char* name, size_t* sizes) {
    return ((size_t (*)(const char*, size_t*))dlsym(dlopen("REAL", RTLD_NOW), "illume_argument_sizes"))(name, sizes);
}
"""


def counts(capability, chosen, **settings):
    """How many of the chosen tests passed, failed and were skipped on the fake GPU."""
    if importlib.util.find_spec("cuda") is None or compiled() is None:
        pytest.skip("cuda-core or g++ is not installed")
    words = [
        "-m",
        "pytest",
        "-q",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        "-m",
        "gpu",
        "-k",
        chosen,
        SAMPLE_TESTS,
        *OTHER_TESTS,
    ]
    done = fake_machine.run(words, FAKE_CAPABILITY=capability, **settings)
    last = done.stdout.splitlines()[-1]
    found = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", last)}
    said = done.stdout[-3000:]
    assert not {"error", "errors"} & found.keys(), said
    return SimpleNamespace(**{word: found.get(word, 0) for word in ("passed", "failed", "skipped")}, said=said)


def test_the_kernel_tests_pass_on_a_gpu_with_clusters():
    count = counts("90", SOME)
    assert count.failed == 0, count.said
    assert count.passed > 280
    assert count.skipped < 5  # groups that do not fit its four processors


def test_the_kernel_tests_pass_on_a_gpu_without_clusters():
    count = counts("87", SOME)
    assert count.failed == 0, count.said
    assert count.passed > 230
    assert "clusters are of SM 9.0" in count.said


def test_a_gpu_that_does_nothing_passes_no_test(tmp_path):
    if compiled() is None:
        pytest.skip("g++ is not installed")
    source, library = tmp_path / "nothing.c", tmp_path / "nothing.so"
    source.write_text(DOES_NOTHING.replace("REAL", str(compiled())))
    subprocess.run(["g++", "-xc", "-fPIC", "-shared", "-o", library, source, "-ldl"], check=True)
    count = counts("90", SOME, ILLUME_SHIM=str(library))
    assert count.passed == 0, count.said
    assert count.failed > 280


def test_every_schedule_is_one_test_on_a_gpu():
    words = ["-q", "-m", "gpu", "--collect-only", "-k", "cuda-core and every_schedule", SAMPLE_TESTS]
    listed = subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True).stdout
    assert listed.count("::test_every_schedule_gives_the_same[") == 2, listed
