"""The prebuilt kernels on an NVIDIA GPU equal the definition bit for bit; needs cuda-core."""

import dataclasses
import json

import numpy as np
import pytest
from sample_case import Case

from illume_kernels.build import PREBUILT
from illume_kernels.params import SampleParams

pytestmark = pytest.mark.gpu


class GpuDevice:
    """Copies the host arrays that a launch points at to the GPU and back: a Case runs on both kinds of device."""

    def __init__(self):
        pytest.importorskip("cuda.core")
        from illume_runtime.device.cuda_core import open_device
        from illume_runtime.device.images import kernel_image

        self.device = open_device()
        self.gpu = self.device.gpu
        self._stream = self.device.stream()
        self._module = self.device.module(kernel_image(self.device.compute_capability))

    def run_case(self, case):
        arrays = [
            getattr(case, name)
            for name in (
                "logits", "rows", "step", "token", "chance", "trace", "workspace", "keys", "banned_bits", "seen_bits"
            )
        ]  # fmt: skip
        buffers = {}
        for array in arrays:
            if array is not None:
                memory = self.device.allocate(array.nbytes)
                self._stream.upload(memory.address, array)
                buffers[array.ctypes.data] = (array, memory)
        arguments = tuple(
            np.uint64(buffers[int(a)][1].address) if int(a) in buffers else a for a in case.launch.arguments
        )
        self._stream.launch(self._module, dataclasses.replace(case.launch, arguments=arguments))
        for array, memory in buffers.values():
            self._stream.download(array, memory.address)
        self._stream.synchronize()


class Launcher:
    """What `Case.check` calls."""

    def __init__(self, device, case):
        self._device, self._case = device, case

    def run(self, launch, schedule, seed):
        assert launch is self._case.launch
        self._device.run_case(self._case)


@pytest.fixture(scope="module")
def device():
    return GpuDevice()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [1, 514, 32_768, 98_304])
def test_every_decision_equals_the_oracle(device, n, dtype):
    random = np.random.default_rng(n)
    for step, (top_k, top_p) in enumerate([(0, 1.0), (2048, 0.8), (6144, 0.8), (7, 1.0), (0, 0.3)]):
        cond, uncond = (random.standard_normal((2, 3, n)) * 3).astype(np.float32)
        params = SampleParams.broadcast(3, top_k=top_k, top_p=top_p, request=[1, 2, 3], step=step)
        case = Case(cond, params, uncond, 2.0, dtype=dtype, group=4, block=512, gpu=device.gpu)
        for _ in range(3):
            case.check(Launcher(device, case))


def test_the_manifest_names_this_gpu(device):
    major, minor = device.device.compute_capability
    assert f"sm_{major}{minor}" in json.loads((PREBUILT / "manifest.json").read_text())["kernels"]
