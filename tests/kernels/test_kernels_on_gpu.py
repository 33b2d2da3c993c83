"""What only a GPU can show: launches as they are planned for it, at the sizes of a model."""

import json

import numpy as np
import pytest
from gpu_device import PACKAGES
from sample_case import Case

from illume_kernels.build import PREBUILT
from illume_kernels.params import SampleParams
from illume_kernels.sample_plan import sample_plan

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("device", PACKAGES, indirect=True)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [514, 32_768, 98_304, 282_776])
def test_launches_planned_for_this_gpu_equal_the_oracle(device, n, dtype):
    random = np.random.default_rng(n)
    plan = sample_plan(device.gpu, 3, n)
    for step, (top_k, top_p) in enumerate([(0, 1.0), (2048, 0.8), (6144, 0.8), (7, 1.0), (0, 0.3)]):
        cond, uncond = (random.standard_normal((2, 3, n)) * 3).astype(np.float32)
        params = SampleParams.broadcast(3, top_k=top_k, top_p=top_p, request=[1, 2, 3], step=step)
        case = Case(cond, params, uncond, 2.0, dtype=dtype, group=plan.group, block=plan.block, gpu=device.gpu)
        assert case.plan == plan
        for _ in range(3):
            case.check(device)


def test_the_manifest_names_this_gpu(device):
    major, minor = device.device.compute_capability
    assert f"sm_{major}{minor}" in json.loads((PREBUILT / "manifest.json").read_text())["kernels"]
