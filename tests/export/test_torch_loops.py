"""PyTorch's loops, against which ours are timed: the compiled one draws what the reference draws."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import torch_loops
from benchmarks.gpu.loops import torch_loops as timed_loops
from benchmarks.gpu.timing import Sizes
from illume_export.sequences import likeliest
from illume_runtime.bundle import Bundle


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> torch_loops.TorchModel:
    """The small model on the CPU."""
    return torch_loops.model_by_name(str(checkpoint), "cpu", torch.float32)


@pytest.mark.parametrize("is_traced", [False, True], ids=["eager", "one graph"])
def test_the_static_loop_draws_the_codes_of_the_reference(model: torch_loops.TorchModel, is_traced: bool) -> None:
    compiled = partial(torch.compile, backend="eager", fullgraph=True) if is_traced else lambda step: step
    expected = torch_loops.reference_codes(model, likeliest)
    loop = torch_loops.StaticLoop(model, likeliest, compiled)
    assert len(set(expected[0].tolist())) > 3
    for _ in range(2):  # what the first picture left in the cache is not seen
        torch.testing.assert_close(loop.codes(), expected)


def test_its_denoiser_is_that_of_the_bundle(model: torch_loops.TorchModel, bundle: Path) -> None:
    spec = Bundle.open(bundle).stage("denoiser")
    assert model.latent_shape == next(port.shape[1:] for port in spec.inputs if port.name == "latents")
    latents = torch_loops.denoised(model, model.denoise, 3)
    assert latents.shape == (1, *model.latent_shape)
    assert not torch.equal(latents, torch_loops.denoised(model, model.denoise, 4))


@pytest.mark.slow
def test_all_four_loops_are_timed(checkpoint: Path) -> None:
    loops = list(timed_loops(str(checkpoint), 2, Sizes(pictures=1), "cpu"))
    assert [(loop.side, loop.loop) for loop in loops] == [
        (side, loop) for loop in ("tokens", "diffusion") for side in ("PyTorch", "torch.compile")
    ]
    assert all(loop.median_ms > 0 for loop in loops)
