"""The benchmark of quantized layers: what it makes is quantized, and what it says of the times is their ratio."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from benchmarks.blocks import Block, blocks_of_3b, times_of_block
from benchmarks.layers import Decode, LayerResults, text_of_results
from benchmarks.peers.environments import OURS
from benchmarks.peers.running import checkpoint_of_shape, exported, measured, task_of
from illume_export.families.illume_plus.models.vision_transformer import VitBlock
from illume_runtime.bundle import Bundle
from illume_runtime.machine import Machine, MachineLimits

SMALL = Block("ViT block", lambda: VitBlock(32, 2, 64), {"x": (128, 32), "cos": (128, 8), "sin": (128, 8)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small shape with our float bundle in it."""
    made = tmp_path_factory.mktemp("shapes") / "tiny"
    exported(OURS, checkpoint_of_shape(made), 1, again=False)
    return made


@pytest.mark.parametrize(("weights", "group"), [("int8", 0), ("int4", 128), ("int4-32", 32)])
def test_our_side_is_quantized_by_the_recipe_of_the_family(folder: Path, weights: str, group: int) -> None:
    name = f"{OURS}-{weights}"
    exported(name, folder / folder.name, 1, again=False)
    made = Bundle.open(folder / name)
    assert made.manifest.quantization is not None
    decoder = made.manifest.quantization.stages["decoder"]
    assert (decoder.weights, decoder.activations) == (weights.partition("-")[0], "float32")
    for node in onnx.load(made.stage_path("decoder")).graph.node:
        if group and node.op_type == "DequantizeLinear":
            assert next(a.i for a in node.attribute if a.name == "block_size") == group
    found = measured([name], folder, task_of(made, 4, (1, 1)), 1, 1)
    assert len(found[name][0]["text"]["ids"]) == 4


def test_a_block_is_timed_in_float_and_with_all_its_products_in_int8(tmp_path: Path) -> None:
    times = times_of_block(SMALL, tmp_path, 3, 1)
    assert times.speedup == pytest.approx(times.float32.median_ms / times.int8.median_ms, abs=1e-3)
    assert times.int8_bytes < times.float32_bytes
    assert times.flops == 2 * 128 * 32 * (3 * 32 + 32 + 2 * 64)
    nodes = [node.op_type for node in onnx.load(tmp_path / "vit-block-int8.onnx").graph.node]
    assert nodes.count("QuantizeLinear") == 4
    written = (tmp_path / "vit-block-int8.onnx").stat().st_mtime_ns
    times_of_block(SMALL, tmp_path, 1, 1)
    assert (tmp_path / "vit-block-int8.onnx").stat().st_mtime_ns == written


def test_the_blocks_have_the_widths_of_the_published_model() -> None:
    shapes = {block.name: next(iter(block.shapes.values())) for block in blocks_of_3b()}
    assert shapes == {
        "ViT block": (324, 1280),
        "MoVQ encoder": (1, 3, 256, 256),
        "MoVQ decoder": (1, 64, 16, 16),
        "UNet transformer block": (2, 256, 1280),
        "UNet residual block": (2, 640, 32, 32),
    }


def test_the_text_holds_each_side_against_our_float_and_against_the_best_peer() -> None:
    def decode(side: str, weights: str, ms: float) -> Decode:
        return Decode(side, weights, {}, ms, ms, 10**6, 0.5)

    sides = [decode(OURS, "float32", 8.0), decode(OURS, "int8", 2.0), decode(OURS, "int4", 1.0)]
    sides += [decode("slow", "int8", 6.0), decode("fast", "int8-32", 1.0)]
    machine, limits = Machine("Linux x86_64", "Some CPU", 2, 1 << 34), MachineLimits(1, 1e10, 1e11)
    results = LayerResults(machine, limits, "2026-01-31", "abc1234", "tiny", 1, 1, tuple(sides), ())
    shown = text_of_results(results)
    assert "int8: 4.00 times our float32, goal 3.5; 50% of the bandwidth, goal 75%; 0.50 times the speed" in shown
    assert "of the best peer, fast int8-32, goal 1" in shown
    assert "int4: 8.00 times our float32, goal 5.0; 50% of the bandwidth, goal 75%\n" in f"{shown}\n"
