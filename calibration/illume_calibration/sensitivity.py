"""Which layers quantization hurts: one layer at a time, the noise that it alone adds to what its stage gives.

The noise of several layers adds up well enough to choose by: layers are relieved, the worst first, until the sum is
below what a stage may have. A layer is relieved of int8 activations where that takes most of its noise away, and of
quantization altogether where it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from illume_calibration.comparison import SignalNoise, decibels
from illume_calibration.graph_file import graph_from_stage, save_graph
from illume_calibration.layers import layers_of, weight_of
from illume_calibration.quality import CACHE
from illume_calibration.quantizing import quantize_stage
from illume_calibration.recipe import Recipe, StageRecipe, for_layers
from illume_calibration.reservoir import Call
from illume_calibration.running import WatchedSession
from illume_calibration.statistics import StageStatistics
from illume_runtime.bundle import Bundle

MOST: Final = 0.5  # of a layer's noise: what float activations must take away to be worth it
FLOAT32_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Damage:
    """The noise of a layer as a share of the power of the stage's output: as the recipe has it, and weights alone.

    A stage that gives codes has the share of changed codes instead.
    """

    stage: str
    layer: str
    noise: float
    weights_noise: float
    saved_bytes: int

    @property
    def sqnr_db(self) -> float:
        """The noise in dB below the signal."""
        return decibels(1.0, self.noise)

    @property
    def noise_per_megabyte(self) -> float:
        """Damage per megabyte saved."""
        return self.noise / (self.saved_bytes / 1e6)


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
    graph = graph_from_stage(bundle.path, bundle.stage(name)).graph
    layers = layers_of(graph)
    names = [layer.name for layer in layers]
    how = for_layers(how, name, layers)
    found = []
    with TemporaryDirectory() as folder:
        path = Path(folder, "stage.onnx")

        def noise(layer: str, activations: bool) -> float:
            model = graph_from_stage(bundle.path, bundle.stage(name))
            alone = replace(how, keep=tuple(other for other in names if other != layer), weight_only=())
            if not activations:
                alone = replace(alone, activations="float32")
            quantize_stage(name, model, statistics, recipe, alone)
            save_graph(model, path)
            return _noise(
                WatchedSession(path, bundle.stage(name), threads, (), lambda _, feeds, outputs: outputs), calls
            )

        for layer in layers:
            if layer.name in how.keep:
                continue
            int8 = how.activations == "int8" and layer.name not in how.weight_only
            weights_noise = noise(layer.name, activations=False)
            saved = weight_of(graph, layer).size * (FLOAT32_BYTES - (0.5 if how.weights == "int4" else 1))
            whole = noise(layer.name, activations=True) if int8 else weights_noise
            found.append(Damage(name, layer.name, whole, weights_noise, int(saved)))
    return sorted(found, key=lambda damage: -damage.noise)


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
