"""Which layers quantization hurts: one layer at a time, the noise that it alone adds to what its stage gives, beside
the bytes and the milliseconds that it saves.

The noise of several layers adds up well enough to choose by: layers are relieved, the worst first, until the sum is
below what a stage may have. A layer is relieved of int8 activations where that takes most of its noise away, and of
quantization altogether where it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import onnx

from illume_calibration.comparison import SignalNoise, decibels
from illume_calibration.graph_file import graph_from_stage, save_graph, size_of
from illume_calibration.layer_times import SCALE, input_shapes, saved_ms
from illume_calibration.layers import Layer, layers_of, weight_of
from illume_calibration.qdq import QuantizedLayer
from illume_calibration.quality import CACHE
from illume_calibration.quantizing import quantize_stage
from illume_calibration.recipe import Recipe, StageRecipe, for_layers
from illume_calibration.reservoir import Call
from illume_calibration.running import WatchedSession
from illume_calibration.statistics import StageStatistics
from illume_calibration.weights import int4_in_groups, int8_per_channel
from illume_runtime.bundle import Bundle

MOST: Final = 0.5  # of a layer's noise: what float activations must take away to be worth it


@dataclass(frozen=True, slots=True)
class Damage:
    """The noise of a layer as a share of the power of the stage's output: as the recipe has it, and weights alone.

    A stage that gives codes has the share of changed codes instead.
    """

    stage: str
    layer: str
    noise: float
    weights_noise: float
    saved_bytes: int  # with what is written beside the weight: below zero for one of a few numbers
    saved_ms: float  # of a call, the layer by itself; below zero where it is slower than in float

    @property
    def sqnr_db(self) -> float:
        """The noise in dB below the signal."""
        return decibels(1.0, self.noise)

    @property
    def noise_per_megabyte(self) -> float:
        """Damage per megabyte saved; without end where none is."""
        return self.noise / (self.saved_bytes / 1e6) if self.saved_bytes > 0 else float("inf")

    @property
    def noise_per_ms(self) -> float:
        """Damage per millisecond saved; without end where none is."""
        return self.noise / self.saved_ms if self.saved_ms > 0.0 else float("inf")


def by_damage_per_byte(damages: Iterable[Damage]) -> list[Damage]:
    """Those whose bytes are bought most dearly first; of equal ones those whose milliseconds are."""
    return sorted(damages, key=lambda damage: (-damage.noise_per_megabyte, -damage.noise_per_ms))


def damages_of_stage(
    bundle: Bundle,
    name: str,
    calls: Sequence[Call],
    statistics: StageStatistics | None,
    recipe: Recipe,
    how: StageRecipe,
    threads: int | None,
) -> list[Damage]:
    """Every layer that the recipe quantizes, the worst first."""
    float_model = graph_from_stage(bundle.path, bundle.stage(name))
    graph = float_model.graph
    layers = layers_of(graph)
    names = [layer.name for layer in layers]
    how = for_layers(how, name, layers)
    shapes = input_shapes(float_model, layers, calls)
    found = []
    with TemporaryDirectory() as folder:
        path = Path(folder, "stage.onnx")

        def noise(layer: str, activations: bool) -> tuple[float, int]:
            model = graph_from_stage(bundle.path, bundle.stage(name))
            alone = replace(how, keep=tuple(other for other in names if other != layer), weight_only=())
            if not activations:
                alone = replace(alone, activations="float32")
            quantize_stage(name, model, statistics, recipe, alone)
            save_graph(model, path)
            session = WatchedSession(path, bundle.stage(name), threads, (), lambda _, feeds, outputs: outputs)
            return _noise(session, calls), size_of(model)

        for layer in layers:
            if layer.name in how.keep:
                continue
            int8 = how.activations == "int8" and layer.name not in how.weight_only
            weights_noise, size = noise(layer.name, activations=False)
            whole, size = noise(layer.name, activations=True) if int8 else (weights_noise, size)
            sooner = saved_ms(float_model, layer, _example(graph, layer, how, int8), shapes[layer.name], threads)
            found.append(Damage(name, layer.name, whole, weights_noise, size_of(float_model) - size, sooner))
    return sorted(found, key=lambda damage: -damage.noise)


def _example(graph: onnx.GraphProto, layer: Layer, how: StageRecipe, int8: bool) -> QuantizedLayer:
    """The layer as the recipe has it, with scales that suit no data: for its time."""
    weight = weight_of(graph, layer)
    in_groups = how.weights == "int4" and layer.kind == "linear"
    made = int4_in_groups(weight, how.group_size) if in_groups else int8_per_channel(weight, layer.axis)
    scale = SCALE if int8 else None
    return QuantizedLayer(made, scale, scale if layer.kind == "conv" else None)


def relieved(how: StageRecipe, damages: Sequence[Damage], sqnr_db: float) -> StageRecipe:
    """The recipe with as few layers relieved, the worst first, as bring the sum of the noise below the SQNR."""
    allowed = 10.0 ** (-sqnr_db / 10.0)
    total = sum(damage.noise for damage in damages)
    weight_only, keep = list(how.weight_only), list(how.keep)
    for damage in sorted(damages, key=lambda damage: -damage.noise):
        if total <= allowed:
            break
        if damage.weights_noise <= (1.0 - MOST) * damage.noise:
            weight_only.append(damage.layer)
            total -= damage.noise - damage.weights_noise
        else:
            keep.append(damage.layer)
            total -= damage.noise
    return replace(how, weight_only=tuple(weight_only), keep=tuple(keep))


def _noise(session: WatchedSession, calls: Sequence[Call]) -> float:
    sums, changed = SignalNoise(), []
    for call in calls:
        got = session.run(call.inputs)
        for name, expected in call.outputs.items():
            if np.issubdtype(expected.dtype, np.integer):
                changed.append(float((expected != got[name]).mean()))
            elif CACHE not in name:
                sums.add(np.asarray(expected, np.float32), np.asarray(got[name], np.float32))
    return float(np.mean(changed)) if changed else sums.noise / max(sums.signal, 1e-300)
