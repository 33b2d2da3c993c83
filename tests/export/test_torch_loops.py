"""PyTorch's loops, against which ours are timed: the compiled one draws what the reference draws, and so does ours."""

from __future__ import annotations

import dataclasses
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import torch_loops
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.entry import Entry
from benchmarks.gpu.joint_loop import JointLoop, StepKind, folded
from benchmarks.gpu.model_loops import OrPlain, diffusion_jobs, token_jobs
from benchmarks.gpu.static_decoder import layer_step
from benchmarks.gpu.targets import JOINT
from benchmarks.gpu.timing import Limits, Sizes
from benchmarks.gpu.worker import entries_of
from fake_gpu import FakeDevice
from illume_export.families.illume_plus.models.unet import Unet
from illume_export.families.illume_plus.published import published_config
from illume_export.sequences import likeliest
from illume_runtime.bundle import Bundle
from illume_runtime.gpu.accelerator import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))

from cpu_device import CpuDevice, compiled

GREEDY = {"temperature": 0.0, "top_k": 1, "top_p": 1.0}


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> torch_loops.TorchModel:
    """The small model on the CPU."""
    return torch_loops.model_by_name(str(checkpoint), "cpu", torch.float32)


@pytest.fixture
def gpu() -> Accelerator:
    """A GPU in numpy that runs the CUDA source at once, as PyTorch on a CPU does: both work in one order."""
    library = compiled()
    if library is None:
        pytest.skip("g++ is not installed")
    device = FakeDevice()
    device.run_kernel = CpuDevice(library).run
    made = Accelerator(device, b"kernels")

    def at_once(work: Any, name: str) -> None:
        device.calls[name] += 1
        work()

    made.stream.put = at_once  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("is_traced", [False, True], ids=["eager", "one graph a layer"])
def test_the_static_loop_draws_the_codes_of_the_reference(model: torch_loops.TorchModel, is_traced: bool) -> None:
    traced: Any = partial(torch.compile, backend="eager", fullgraph=True, dynamic=False)
    plain: Any = lambda function: function  # noqa: E731
    compiled = traced if is_traced else plain
    expected = torch_loops.reference_codes(model, likeliest)
    loop = torch_loops.StaticLoop(model, likeliest, compiled(layer_step), compiled)
    assert len(set(expected[0].tolist())) > 3
    for _ in range(2):  # what the first picture left in the cache is not seen
        torch.testing.assert_close(loop.codes(), expected)


def test_a_part_of_a_picture_is_its_beginning(model: torch_loops.TorchModel) -> None:
    whole = torch_loops.reference_codes(model, likeliest)
    part = torch_loops.reference_codes(model, likeliest, 9)
    assert 1 < part.shape[1] < 10
    torch.testing.assert_close(part, whole[:, : part.shape[1]])
    prefills: list[int] = []
    loop = torch_loops.StaticLoop(model, likeliest, layer_step)
    torch.testing.assert_close(loop.codes(9, lambda: prefills.append(1)), part)
    assert prefills == [1]


def test_all_layers_are_one_compilation(model: torch_loops.TorchModel) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    layer = torch.compile(layer_step, backend=backend, fullgraph=True, dynamic=False)
    torch_loops.StaticLoop(model, likeliest, layer).codes(9)
    assert len(model.language_model.model.layers) > 1
    assert len(graphs) == 1


def test_forced_tokens_take_no_step() -> None:
    grammar = [(5, 6), (10, 20), (10, 20), (6, 7), (7, 8), (20, 40), (6, 7)]
    assert folded(grammar) == ((5,), (10, 20), [StepKind((10, 20), (), (10, 20)), StepKind((10, 20), (6, 7), (20, 40))])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_our_loop_draws_the_codes_of_the_reference(checkpoint: Path, gpu: Accelerator, dtype: torch.dtype) -> None:
    """In bfloat16 the head rounds elsewhere than PyTorch's: most codes are the same until two scores are close."""
    small = torch_loops.model_by_name(str(checkpoint), "cpu", dtype)
    loop = JointLoop(gpu, small, layer_step, filters=GREEDY)
    loop.prepare()
    expected = torch_loops.reference_codes(small, likeliest)[0].numpy()
    for _ in range(2):
        codes = loop.codes()
        assert len(codes) == len(expected) == 1 + len(loop.kinds)
        if dtype == torch.float32:
            assert (codes == expected).all()
        else:
            assert codes[0] == expected[0]
            assert (codes >= 0).all()
    calls = gpu.device.calls  # type: ignore[attr-defined]
    assert calls["sample_cluster"] == 2 * len(expected)
    assert calls["gather_embedding"] == 2 * len(loop.kinds)
    assert calls["head_gemv_w16_2"] == (0 if dtype == torch.float32 else 2 * len(expected))


def test_the_floor_counts_what_each_step_reads(model: torch_loops.TorchModel, gpu: Accelerator) -> None:
    loop = JointLoop(gpu, model, layer_step)
    c = model.language_model.config
    layers = 4 * sum(p.numel() for p in model.language_model.model.layers.parameters())
    num_codes = [end - start for start, end in model.grammar if end - start > 1][1:]
    heads = 4 * c.hidden_size * sum(num_codes)
    lengths = [torch_loops.PROMPT + i for i, (start, end) in enumerate(model.grammar) if end - start > 1][1:]
    cache = 2 * 2 * 4 * c.num_layers * c.num_kv_heads * c.head_dim * sum(lengths)
    assert loop.floor_ms(1e9) == pytest.approx((len(num_codes) * layers + heads + cache) / 1e6)


def test_its_denoiser_is_that_of_the_bundle(model: torch_loops.TorchModel, bundle: Path) -> None:
    spec = Bundle.open(bundle).stage("denoiser")
    assert model.latent_shape == next(port.shape[1:] for port in spec.inputs if port.name == "latents")
    latents = torch_loops.denoised(model, model.denoise, 3)
    assert latents.shape == (1, *model.latent_shape)
    assert not torch.equal(latents, torch_loops.denoised(model, model.denoise, 4))


def test_the_denoiser_is_one_graph(model: torch_loops.TorchModel) -> None:
    compiled: Any = partial(torch.compile, backend="eager", fullgraph=True, dynamic=False)
    expected = torch_loops.denoised(model, model.denoise, 2)
    torch.testing.assert_close(torch_loops.denoised(model, model.denoise_through(compiled), 2), expected)


def test_the_unet_of_a_published_model_is_one_graph_and_gives_what_it_gave() -> None:
    torch.compiler.reset()
    published = published_config("illume-plus-3b")
    assert published.diffusion is not None
    config = dataclasses.replace(
        published.diffusion.unet,
        channels=(32, 32, 32),
        transformer_layers=(0, 1, 1),
        num_heads=(2, 2, 2),
        context_width=32,
        size_embed_width=32,
    )
    torch.manual_seed(0)
    unet = Unet(config).eval()
    code_map, latents, times = torch.randn(2, 64, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.7])
    compiled: Any = partial(torch.compile, backend="eager", fullgraph=True, dynamic=False)
    with torch.inference_mode():
        expected = unet(latents, code_map, times, torch.zeros(2))
        denoise_through = torch_loops.unet_denoising(unet, code_map)
        for through in (lambda module: module, compiled):
            denoise = denoise_through(through)
            torch.testing.assert_close(denoise(latents, times), expected)
            assert not torch.equal(denoise(latents, times + 0.1), expected)


def test_layers_that_cannot_be_compiled_are_run_as_they_are(model: torch_loops.TorchModel, gpu: Accelerator) -> None:
    calls: list[int] = []

    def fails(*given: Any) -> Any:
        calls.append(1)
        raise OSError("no compiler\nhere")

    layer = OrPlain(fails, layer_step)
    codes = JointLoop(gpu, model, layer, filters=GREEDY).codes()
    assert (codes == torch_loops.reference_codes(model, likeliest)[0].numpy()).all()
    assert (layer.reason, calls) == ("OSError: no compiler here", [1])


def test_all_loops_are_timed_and_say_how_much_of_a_picture(checkpoint: Path, gpu: Accelerator) -> None:
    options = Namespace(model=str(checkpoint), bundle=None, model_device="cpu")
    sizes = Sizes(pictures=1, reference_tokens=3, reference_steps=2)
    bench = Bench(options, sizes, Limits(1e9, 1.0), deadline=1e12)
    bench.__dict__["gpu"] = gpu
    found: list[Entry] = []
    for job in (*token_jobs(), *diffusion_jobs()):
        assert entries_of(job, bench, found.append), found[-1].reason
    assert [(one.side, one.name) for one in found] == [
        (JOINT, "tokens"),
        ("torch.compile", "tokens"),
        ("torch", "tokens"),
        ("torch", "diffusion"),
        ("torch.compile", "diffusion"),
    ]
    of = len(bench.kept["model"].grammar)
    assert [one.facts.get("tokens_timed") for one in found[:3]] == [of, 12, 3]
    assert {one.facts["tokens_of"] for one in found[:3]} == {of}
    assert found[2].note.endswith(f"3 of {of} tokens timed, then multiplied")
    assert found[3].facts == {"steps_timed": 2, "steps_of": 20}
    assert all(one.median is not None and one.median > 0 for one in found)
    assert found[0].ratio is not None
