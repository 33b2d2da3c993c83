from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from illume_export.families.illume import illume_from_checkpoint
from illume_export.models import Illume

B, KV, DH, LAYERS, D = 2, 2, 16, 2, 48
NAMES = [f"{kind}_cache_{i}" for i in range(LAYERS) for kind in ("key", "value")]


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Illume:
    return illume_from_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def session(bundle: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(bundle / "stages" / "decoder.onnx", options, providers=["CPUExecutionProvider"])


class InPlace:
    """A cache of S slots whose outputs are bound to its inputs."""

    def __init__(self, session: onnxruntime.InferenceSession, num_slots: int, *, shared: bool = True) -> None:
        self.session = session
        shape = (B, KV, num_slots, DH)
        self.inputs = [onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for _ in NAMES]
        self.outputs = (
            self.inputs
            if shared
            else [onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for _ in NAMES]
        )

    def step(self, embeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
        binding = self.session.io_binding()
        binding.bind_cpu_input("inputs_embeds", np.ascontiguousarray(embeds))
        binding.bind_cpu_input("positions", np.ascontiguousarray(positions))
        for name, source, target in zip(NAMES, self.inputs, self.outputs, strict=True):
            binding.bind_ortvalue_input(name, source)
            binding.bind_ortvalue_output(f"{name}_out", target)
        binding.bind_output("hidden")
        self.session.run_with_iobinding(binding)
        hidden: np.ndarray = binding.get_outputs()[-1].numpy()  # in the order of binding
        return hidden


@pytest.mark.parametrize("num_slots", [9, 16, 31, 96])
def test_any_cache_length_gives_the_same_states(
    session: onnxruntime.InferenceSession, model: Illume, num_slots: int
) -> None:
    embeds = torch.randn(B, 9, D, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.language_model(embeds).numpy()
    cache = InPlace(session, num_slots)
    positions = np.tile(np.arange(9), (B, 1))
    bounds = [(0, 5), (5, 6), (6, 8), (8, 9)]
    got = [cache.step(embeds[:, a:b].numpy(), positions[:, a:b]) for a, b in bounds]
    assert np.abs(np.concatenate(got, axis=1) - expected).max() <= 1e-5  # float32, another order of sums


def test_cache_holds_a_token_at_its_position(session: onnxruntime.InferenceSession) -> None:
    cache = InPlace(session, 12)
    embeds = np.random.default_rng(0).standard_normal((B, 2, D)).astype(np.float32)
    cache.step(embeds, np.array([[3, 4], [7, 8]]))
    for buffer in cache.inputs:
        written = np.abs(buffer.numpy()).sum(axis=(1, 3)) > 0
        assert [np.flatnonzero(row).tolist() for row in written] == [[3, 4], [7, 8]]


def test_slots_behind_a_token_cannot_be_seen(session: onnxruntime.InferenceSession) -> None:
    embeds = np.random.default_rng(0).standard_normal((B, 3, D)).astype(np.float32)
    positions = np.tile(np.arange(3), (B, 1))
    clean, dirty = InPlace(session, 20), InPlace(session, 20)
    for buffer in dirty.inputs:
        buffer.update_inplace(np.full(buffer.shape(), 1e3, np.float32))
    assert np.array_equal(clean.step(embeds, positions), dirty.step(embeds, positions))


@pytest.mark.parametrize("shared", [True, False], ids=["one buffer", "two buffers"])
def test_bound_to_one_buffer_the_cache_is_not_copied(
    session: onnxruntime.InferenceSession, capfd: pytest.CaptureFixture[str], shared: bool
) -> None:
    InPlace(session, 8, shared=shared).step(np.ones((B, 1, D), np.float32), np.zeros((B, 1), np.int64))
    copied = "copying past_cache" in capfd.readouterr().err  # ONNX Runtime warns of every copy
    assert copied is not shared
