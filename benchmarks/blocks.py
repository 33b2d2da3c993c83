"""Blocks of the 3B's vision, tokenizer and diffusion stages at their real widths: float32 and int8 in turns.

Weights are random and scales are those of random inputs: no time depends on the numbers. Each block is exported as a
stage is, quantized by the rules of the family's recipe, and run by ONNX Runtime as the runtime runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from benchmarks.results import Times
from illume_calibration.graph_file import save_graph, with_taps
from illume_calibration.layers import products_from_gemms
from illume_calibration.observing import tapped_axes
from illume_calibration.quantizing import quantize_stage
from illume_calibration.recipe import StageRecipe, recipe_from_name
from illume_calibration.statistics import StageStatistics, TensorStatistics
from illume_export.families.illume_plus.config import MovqConfig, TokenizerConfig, UnetConfig, VitConfig
from illume_export.families.illume_plus.models.movq import MovqDecoder, MovqEncoder
from illume_export.families.illume_plus.models.unet import TransformerBlock, UnetResidual
from illume_export.families.illume_plus.models.vision_transformer import VitBlock
from illume_export.families.illume_plus.rewrites import AttentionFree, rewritten_decoder, rewritten_encoder
from illume_export.flops import flops_of_shapes
from illume_export.language_stages import OPSET
from illume_export.onnx_from_stage import onnx_from_stage
from illume_export.onnx_weights import store_weights
from illume_export.stage import Stage
from illume_runtime.manifest import Flops, StageSpec, TensorSpec
from illume_runtime.ort import CPU
from illume_runtime.session import session_from_stage

SIDE = 16  # codes of the fine level along 256 pixels
PATCHES = 4 * 9 * 9  # of 252x252 pixels, the nearest multiple of 28
LATENTS = 64  # along a picture of 512x512, which 256x256 is drawn at


@dataclass(frozen=True, slots=True)
class Block:
    """A module and the shapes of its inputs, for a picture of 256x256; both sides of guidance in the UNet."""

    name: str
    module: Callable[[], nn.Module]
    shapes: Mapping[str, tuple[int, ...]]
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockTimes:
    """Both forms of one block, called in turns; `speedup` is the ratio of the medians."""

    name: str
    threads: int
    flops: int
    float32_bytes: int
    int8_bytes: int
    float32: Times
    int8: Times
    speedup: float


def blocks_of_3b() -> tuple[Block, ...]:
    """The heaviest block of each kind; nothing is made yet."""
    vit, unet, encoder, decoder = VitConfig(), UnetConfig(), MovqConfig(), TokenizerConfig().pixel_decoder
    fine, coarse = unet.channels[1:]
    places = (LATENTS // 4) ** 2
    table = (PATCHES, vit.head_dim // 2)
    codes = (1, decoder.z_channels, SIDE, SIDE)
    return (
        Block(
            "ViT block",
            lambda: VitBlock(vit.width, vit.num_heads, vit.mlp_size),
            {"x": (PATCHES, vit.width), "cos": table, "sin": table},
        ),
        Block(
            "MoVQ encoder",
            lambda: rewritten_encoder(MovqEncoder(encoder)),
            {"pixels": (1, 3, encoder.stride * SIDE, encoder.stride * SIDE)},
            keep=("@first_conv",),
        ),
        Block(
            "MoVQ decoder",
            lambda: rewritten_decoder(MovqDecoder(decoder)),
            {"features": codes, "code_map": codes},
            keep=("@first_conv", "@last_conv"),
        ),
        Block(
            "UNet transformer block",
            lambda: _WithoutText(AttentionFree(TransformerBlock(coarse, unet.num_heads[2], unet.context_width))),
            {"x": (2, places, coarse)},
        ),
        Block(
            "UNet residual block",
            lambda: _WithShift(UnetResidual(fine, fine, unet.embed_width, unet.norm_groups)),
            {"x": (2, fine, LATENTS // 2, LATENTS // 2), "shift": (2, fine)},
        ),
    )


class _WithoutText(nn.Module):
    def __init__(self, block: AttentionFree) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x, None)
        return y


class _WithShift(nn.Module):
    def __init__(self, block: UnetResidual) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return self.block.with_shift(x, shift)


def times_of_block(block: Block, folder: Path, rounds: int, threads: int) -> BlockTimes:
    """Both forms in turns; the graphs stay in the folder and are not made again."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in block.shapes.items()}
    stage = _stage(block, feeds)
    stem = block.name.lower().replace(" ", "-")
    paths = {precision: folder / f"{stem}-{precision}.onnx" for precision in ("float32", "int8")}
    if not all(path.is_file() for path in paths.values()):
        store_weights(*onnx_from_stage(stage), paths["float32"], "float32", beside=False)
        model: onnx.ModelProto = onnx.load(paths["float32"])
        products_from_gemms(model)
        how = StageRecipe(weights="int8", activations="int8", keep=block.keep)
        quantize_stage(block.name, model, _statistics(model, feeds), recipe_from_name("illume_plus"), how)
        save_graph(model, paths["int8"])
    spec = StageSpec(block.name, "", OPSET, stage.inputs, stage.outputs, 0, 0, stage.flops, "", None)
    sessions = {precision: session_from_stage(path, spec, "cpu", threads) for precision, path in paths.items()}
    times_s: dict[str, list[float]] = {precision: [] for precision in paths}
    for number in range(rounds + 1):
        for precision, session in sessions.items():
            start_s = perf_counter()
            session.run(feeds)
            if number:  # the first one warms up
                times_s[precision].append(perf_counter() - start_s)
    float32, int8 = (Times.of_seconds(times_s[precision]) for precision in paths)
    return BlockTimes(
        block.name,
        threads,
        stage.flops.count,
        *(paths[precision].stat().st_size for precision in paths),
        float32,
        int8,
        round(float32.median_ms / int8.median_ms, 3),
    )


def _stage(block: Block, feeds: Mapping[str, np.ndarray]) -> Stage:
    module = block.module().eval()
    with torch.no_grad():
        output = module(*map(torch.from_numpy, feeds.values()))
    inputs = tuple(TensorSpec(name, "float32", shape) for name, shape in block.shapes.items())
    outputs = (TensorSpec("y", "float32", tuple(output.shape)),)
    flops = Flops("call", flops_of_shapes(module, *block.shapes.values()))
    return Stage(block.name, module, inputs, outputs, OPSET, flops, lambda run: [], 0.0)


def _statistics(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> StageStatistics:
    """Those of one call."""
    axes = tapped_axes(model)
    names = [name for name in axes if name not in feeds]
    session = onnxruntime.InferenceSession(with_taps(model, names).SerializeToString(), providers=[CPU])
    seen = {**feeds, **dict(zip(names, session.run(names, dict(feeds)), strict=True))}
    found = StageStatistics(calls=1)
    for name, axis in axes.items():
        found.tensors[name] = TensorStatistics(axis)
        found.tensors[name].add(seen[name])
    return found
