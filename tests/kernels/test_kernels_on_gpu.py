"""The prebuilt kernels on an NVIDIA GPU equal the definition bit for bit; needs cuda-core."""

import json

import numpy as np
import pytest
from sample_case import Case

from illume_kernels.build import PREBUILT
from illume_kernels.launch import Gpu
from illume_kernels.params import SampleParams

pytestmark = pytest.mark.gpu


class GpuDevice:
    """Copies the host arrays that a launch points at to the GPU and back: a Case runs on both kinds of device."""

    def __init__(self):
        core = pytest.importorskip("cuda.core")
        self._core = core
        self._device = core.Device()
        self._device.set_current()
        self._stream = self._device.create_stream()
        self._code = core.ObjectCode.from_fatbin((PREBUILT / "kernels.fatbin").read_bytes())
        capability = self._device.compute_capability
        properties = self._device.properties
        self.gpu = Gpu(
            (capability.major, capability.minor),
            properties.multiprocessor_count,
            properties.max_shared_memory_per_block_optin,
        )

    def run_case(self, case):
        driver = pytest.importorskip("cuda.bindings.driver")
        arrays = [
            getattr(case, name)
            for name in (
                "logits", "rows", "step", "token", "chance", "trace", "workspace", "keys", "banned_bits", "seen_bits"
            )
        ]  # fmt: skip
        buffers = {}
        for array in arrays:
            if array is not None:
                buffer = self._device.allocate(array.nbytes, stream=self._stream)
                driver.cuMemcpyHtoD(int(buffer.handle), array.ctypes.data, array.nbytes)
                buffers[array.ctypes.data] = (array, buffer)
        arguments = [
            np.uint64(int(buffers[int(a)][1].handle)) if int(a) in buffers else a for a in case.launch.arguments
        ]
        kernel = self._code.get_kernel(case.launch.symbol)
        kernel.attributes.max_dynamic_shared_size_bytes = case.launch.shared_bytes
        config = self._core.LaunchConfig(
            grid=case.launch.grid,
            block=case.launch.block,
            cluster=case.launch.cluster if case.launch.cluster > 1 else None,
            shmem_size=case.launch.shared_bytes,
        )
        self._core.launch(self._stream, config, kernel, *arguments)
        self._stream.sync()
        for array, buffer in buffers.values():
            driver.cuMemcpyDtoH(array.ctypes.data, int(buffer.handle), array.nbytes)


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
    major, minor = device.gpu.compute_capability
    assert f"sm_{major}{minor}" in json.loads((PREBUILT / "manifest.json").read_text())["kernels"]
