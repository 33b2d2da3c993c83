from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from illume_export.deferred import Deferred, values_of
from illume_export.families import random_checkpoint
from illume_export.language_stages import decoder_stage, head_stage
from illume_export.models import LanguageModelConfig
from illume_export.models.language_model import LanguageModel, rope_tables
from illume_export.onnx_from_stage import onnx_from_stage
from illume_export.onnx_weights import store_weights
from illume_export.parity import parity_of
from illume_export.random_weights import fill_with_random, random_tensor
from illume_runtime import mapped_products, memory, ort
from illume_runtime.errors import InvalidCheckpointError, UsageError
from illume_runtime.manifest import Flops, StageSpec


def small_language_model(dtype: torch.dtype = torch.float16) -> LanguageModel:
    config = LanguageModelConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, head_dim=8, mlp_size=48)
    with torch.device("meta"):
        model = LanguageModel(config)
    fill_with_random(model, dtype)
    model.cos, model.sin = rope_tables(config)
    return model.eval()


def embeds(row: int, length: int) -> torch.Tensor:
    return torch.randn(length, 32, generator=torch.Generator().manual_seed(row))


def counted(values: torch.Tensor) -> tuple[Deferred, list[int]]:
    reads: list[int] = []

    def read() -> torch.Tensor:
        reads.append(1)
        return values

    return Deferred(values.shape, torch.float32, read, lambda: b"values"), reads


def test_operations_among_deferred_tensors_read_nothing() -> None:
    values = torch.arange(12.0).view(3, 4).half()
    tensor, reads = counted(values)
    new = torch.cat((tensor[1:], tensor.sum(dim=0, keepdim=True) / 2))
    first, _ = torch.split(new.T, 2)
    assert not reads
    assert first.shape == (2, 3)
    expected = torch.cat((values[1:].float(), values.float().sum(dim=0, keepdim=True) / 2)).T[:2]
    assert torch.equal(values_of(first), expected)


def test_a_real_tensor_makes_a_deferred_one_compute_in_float32() -> None:
    values = torch.full((2, 3), 1 / 3).half()
    tensor, reads = counted(values)
    x = torch.ones(5, 3)
    assert torch.equal(F.linear(x, tensor), F.linear(x, values.float()))
    assert len(reads) == 1


def test_digests_tell_values_and_operations_apart() -> None:
    a, b = (random_tensor(name, (4, 4), torch.float16) for name in "ab")
    digests = {t._digest() for t in (a, b, a.T, a + b, b + a)}  # type: ignore[attr-defined]
    assert len(digests) == 5
    assert a._digest() == random_tensor("a", (4, 4), torch.float16)._digest()


@pytest.mark.parametrize(
    ("dtype", "beside"), [(torch.float16, True), (torch.bfloat16, False), (torch.float32, True)], ids=str
)
def test_weights_keep_their_type_and_the_graph_its_numbers(tmp_path: Path, dtype: torch.dtype, beside: bool) -> None:
    model = small_language_model(dtype)
    precision = str(dtype).removeprefix("torch.")
    stage = decoder_stage(model, embeds)
    path = tmp_path / "decoder.onnx"
    num_bytes = store_weights(*onnx_from_stage(stage), path, precision, beside=beside)
    graph = onnx.load(path, load_external_data=False).graph
    named = {t.name: t for t in graph.initializer if ".T" in t.name}
    types = {onnx.TensorProto.DataType.Name(t.data_type).lower() for t in named.values()}
    assert len(named) == 14
    assert types == {{"float32": "float"}.get(precision, precision)}
    assert num_bytes >= sum(np.prod(t.dims) for t in named.values()) * dtype.itemsize
    assert parity_of(stage, path, threads=1).max_abs_error <= 2e-5


def test_a_folded_weight_that_half_precision_would_round_stays_float32(tmp_path: Path) -> None:
    model = small_language_model()
    stage = head_stage(model, "text", 0, 8, lambda: embeds(0, 8))
    stage.module.weight = torch.nn.Parameter(stage.module.weight.detach() / 3)
    store_weights(*onnx_from_stage(stage), tmp_path / "head.onnx", "float16", beside=False)
    (weight,) = [t for t in onnx.load(tmp_path / "head.onnx").graph.initializer if "weight" in t.name]
    assert weight.data_type == onnx.TensorProto.FLOAT


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    model = small_language_model()
    stage = head_stage(model, "text", 0, 8, lambda: embeds(0, 8))
    bad = torch.full((8, 32), float("nan"))
    stage.module.weight = torch.nn.Parameter(counted(bad)[0])
    with pytest.raises(InvalidCheckpointError, match="NaN or infinity in weight; use"):
        store_weights(*onnx_from_stage(stage), tmp_path / "head.onnx", "float16", beside=False)


@pytest.mark.parametrize(("left", "packs"), [(2 * 1024, False), (3 * 1024, True)])
def test_a_session_does_not_copy_weights_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int, packs: bool
) -> None:
    model = small_language_model(torch.float32)
    stage = head_stage(model, "text", 0, 8, lambda: embeds(0, 8))
    path = tmp_path / "head.onnx"
    store_weights(*onnx_from_stage(stage), path, "float32", beside=True)
    spec = StageSpec(stage.name, path.name, 23, stage.inputs, stage.outputs, 1024, 256, Flops("row", 1), "", None)
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: left)
    session = ort.cpu_session(path, spec, 1)
    options = session._session.get_session_options()
    if packs:
        with pytest.raises(RuntimeError, match=ort.UNPACKED[0]):
            options.get_session_config_entry(ort.UNPACKED[0])
    else:
        assert options.get_session_config_entry(ort.UNPACKED[0]) == "1"
    assert 0 <= session.moved_bytes - 1024 < 64  # an index is in the graph


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_matrices_in_half_precision_are_read_from_disk_where_float32_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    model = small_language_model(dtype)
    stage = decoder_stage(model, embeds)
    path = tmp_path / "decoder.onnx"
    num_bytes = store_weights(*onnx_from_stage(stage), path, str(dtype).removeprefix("torch."), beside=True)
    params = sum(parameter.numel() for parameter in stage.module.parameters())
    spec = StageSpec(
        stage.name, path.name, 24, stage.inputs, stage.outputs, num_bytes, params, Flops("row", 1), "", None
    )
    monkeypatch.setattr(ort, "_may_be_half", lambda spec: True)  # rotary tables are a third of so small a stage
    monkeypatch.setattr(mapped_products, "BLOCK", 8 * 48)  # so that there are several blocks
    packed = ort.cpu_session(path, spec, 1)
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 0)
    mapped = ort.cpu_session(path, spec, 1)
    matrices = sum(parameter.numel() for parameter in stage.module.parameters() if parameter.ndim == 2)
    assert packed.moved_bytes - mapped.moved_bytes == 2 * matrices
    assert 0 <= packed.moved_bytes - num_bytes - 2 * matrices < 1024  # shapes
    assert max(stage.errors(packed.run)) <= 2e-5
    assert max(stage.errors(mapped.run)) <= 2e-5
    feeds = {port.name: np.zeros((1, 2, 8, 8), np.float32) for port in stage.inputs[2:]}
    feeds |= {"inputs_embeds": embeds(3, 5).numpy()[None], "positions": np.arange(5)[None]}
    np.testing.assert_allclose(mapped.run(feeds)["hidden"], packed.run(feeds)["hidden"], atol=1e-6)


def test_an_unknown_model_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no published model 'gpt'; known are illume-plus-3b, illume-plus-7b"):
        random_checkpoint("gpt")


MEASURED = """
import sys, torch
from pathlib import Path
from illume_export.cached_decoder import CachedDecoder
from illume_export.families.illume_plus.published import LANGUAGE_MODELS
from illume_export.language_stages import decoder_stage
from illume_export.models.language_model import LanguageModel, rope_tables
from illume_export.onnx_from_stage import onnx_from_stage
from illume_export.onnx_weights import store_weights
from illume_export.random_weights import fill_with_random
from illume_runtime.machine import peak_memory_bytes
import dataclasses
config = dataclasses.replace(LANGUAGE_MODELS["illume-plus-3b"], num_layers=int(sys.argv[1]), vocab_size=1000)
with torch.device("meta"):
    model = LanguageModel(config)
fill_with_random(model, torch.float16)
model.cos, model.sin = rope_tables(config)
stage = decoder_stage(model.eval(), lambda row, length: torch.zeros(length, config.hidden_size))
graph = onnx_from_stage(stage)
before = peak_memory_bytes()
num_bytes = store_weights(*graph, Path(sys.argv[2]), "float16", beside=True)
print(num_bytes, peak_memory_bytes() - before)
"""


def test_memory_follows_the_largest_tensor_and_not_the_stage(tmp_path: Path) -> None:
    peaks = {}
    live = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"}  # what is freed goes back: the peak is what is in use
    for num_layers in (1, 3):  # of the 3B model's widths
        path = tmp_path / f"{num_layers}.onnx"
        words = [sys.executable, "-c", MEASURED, str(num_layers), str(path)]
        out = subprocess.run(words, capture_output=True, text=True, check=True, env=live).stdout.split()
        num_bytes, peaks[num_layers] = map(int, out)
        assert num_bytes > num_layers * 150e6
        path.with_name(f"{path.name}.data").unlink()
    largest = 11_008 * 2048 * (4 + 4 + 2)  # a matrix in float32, as it lies, and in half precision
    assert peaks[3] < 1.3 * largest
    assert peaks[3] - peaks[1] < 0.25 * largest
