"""A quantized graph from a float one, its statistics and a recipe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from illume_calibration.constants import complete
from illume_calibration.error_feedback import int4_by_error_feedback, int8_by_error_feedback
from illume_calibration.folding import Fold, divide_channels, folds_of
from illume_calibration.histogram import Histogram
from illume_calibration.layers import Layer, layers_of, weight_of
from illume_calibration.qdq import QuantizedLayer, quantize_graph
from illume_calibration.ranges import LEVELS, range_from_histogram
from illume_calibration.recipe import Recipe, StageRecipe, for_layers
from illume_calibration.scaling import best_divisors
from illume_calibration.statistics import StageStatistics, TensorStatistics
from illume_calibration.weights import QuantizedWeight, int4_in_groups, int8_per_channel
from illume_runtime.errors import UsageError
from illume_runtime.quantization import StageQuantization

Divisors = dict[str, NDArray[np.float32]]  # of the channels [K] of a tensor


@dataclass(frozen=True, slots=True)
class Quantized:
    """What quantization did to a stage, and how many bytes its weights take now."""

    report: StageQuantization
    weight_bytes: int


def quantize_stage(
    name: str, model: onnx.ModelProto, statistics: StageStatistics | None, recipe: Recipe, how: StageRecipe
) -> Quantized:
    """Rewrite the model in place. Raises UsageError if the recipe or the data do not fit the stage."""
    layers = layers_of(model.graph)
    stage = _Stage(name, recipe, for_layers(how, name, layers), statistics)
    divisors = stage.scale(model)
    quantized: dict[str, QuantizedLayer] = {}
    weight_only, kept = [], []
    inputs = {layer.name: layer.input for layer in layers}  # as calibration knows them
    for layer in layers_of(model.graph):
        if layer.name in stage.how.keep:
            kept.append(layer.name)
            continue
        tensor = inputs[layer.name]
        weight = stage.weight(model, layer, tensor, divisors.get(tensor))
        if not stage.has_int8_input(layer):
            weight_only.append(layer.name)
            quantized[layer.name] = QuantizedLayer(weight, None, None)
            continue
        input_scale = stage.scale_of(tensor, divisors.get(tensor))
        output_scale = stage.scale_of(layer.output, None) if layer.kind == "conv" else None
        quantized[layer.name] = QuantizedLayer(weight, input_scale, output_scale)
    quantize_graph(model, quantized)
    complete(model.graph)
    report = StageQuantization(
        weights=how.weights,
        activations=how.activations,
        num_layers=len(quantized),
        weight_only=tuple(weight_only),
        kept=tuple(kept),
        scaling=how.scaling,
        rounding=how.rounding,
        scaled=tuple(layer.name for layer in layers if layer.input in divisors),
    )
    weight_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    return Quantized(report, weight_bytes)


@dataclass(frozen=True, slots=True)
class _Stage:
    """The recipe of a stage with the names of its layers, and what calibration saw there."""

    name: str
    recipe: Recipe
    how: StageRecipe
    statistics: StageStatistics | None

    def has_int8_input(self, layer: Layer) -> bool:
        return self.how.activations == "int8" and layer.name not in self.how.weight_only

    def scale(self, model: onnx.ModelProto) -> Divisors:
        """Scale the channels of every tensor where it helps; by what each was divided."""
        found: Divisors = {}
        for fold in folds_of(model.graph):
            divisors = self._divisors(model, fold)
            if divisors is not None:
                divide_channels(model, fold, divisors)
                found[fold.tensor] = divisors
        return found

    def _divisors(self, model: onnx.ModelProto, fold: Fold) -> NDArray[np.float32] | None:
        layers = [layer for layer in fold.layers if layer.name not in self.how.keep]
        if self.how.scaling == "none" or not layers:
            return None
        seen = self._seen(fold.tensor)

        def rounded(weight: NDArray[np.float32]) -> NDArray[np.float32]:
            return self._nearest(weight, layers[0]).dequantized()

        def range_of(divisors: NDArray[np.float32]) -> float:
            return self._range(fold.tensor, seen.scaled_histogram(divisors))

        weights = {layer.name: weight_of(model.graph, layer) for layer in layers}
        int8_inputs = [layer.name for layer in layers if self.has_int8_input(layer)]
        return best_divisors(self.how.scaling, seen, weights, rounded, int8_inputs, range_of)

    def weight(
        self, model: onnx.ModelProto, layer: Layer, tensor: str, divisors: NDArray[np.float32] | None
    ) -> QuantizedWeight:
        """The weight of a layer that reads what calibration knows as `tensor`, divided by the divisors."""
        weight = weight_of(model.graph, layer)
        if not np.isfinite(weight).all():
            raise UsageError(
                f"{self.name}: {layer.name}: has weights that are not finite; train or export the model again"
            )
        if self.how.rounding == "nearest" or layer.kind == "conv":
            return self._nearest(weight, layer)
        rows = self._seen(tensor).sample.rows
        rows = rows if divisors is None else rows / divisors
        try:
            if self.how.weights == "int8":
                return int8_by_error_feedback(weight, rows)
            return int4_by_error_feedback(weight, rows, self.how.group_size)
        except ValueError as error:
            raise self._misfit(layer, error) from error

    def scale_of(self, tensor: str, divisors: NDArray[np.float32] | None) -> np.float32:
        """The scale of an int8 tensor whose channels are divided."""
        seen = self._seen(tensor)
        histogram = seen.histogram if divisors is None else seen.scaled_histogram(divisors)
        return np.float32(self._range(tensor, histogram) / LEVELS)

    def _range(self, tensor: str, histogram: Histogram) -> float:
        try:
            return range_from_histogram(histogram, self.recipe.method, self.recipe.percentile)
        except ValueError as error:
            raise UsageError(f"{self.name}: {tensor}: {error}; add requests, or choose another --method") from error

    def _nearest(self, weight: NDArray[np.float32], layer: Layer) -> QuantizedWeight:
        if self.how.weights == "int8" or layer.kind == "conv":
            return int8_per_channel(weight, layer.axis)
        try:
            return int4_in_groups(weight, self.how.group_size)
        except ValueError as error:
            raise self._misfit(layer, error) from error

    def _misfit(self, layer: Layer, error: ValueError) -> UsageError:
        return UsageError(f"{self.name}: {layer.name}: {error}; name it in keep, or choose another group_size")

    def _seen(self, tensor: str) -> TensorStatistics:
        if self.statistics is None or tensor not in self.statistics.tensors:
            raise UsageError(
                f"{self.name}: no calibration request reached it; add requests that do, or quantize its weights alone, "
                f"as they are (--set {self.name}.activations=float32 --set {self.name}.scaling=none "
                f"--set {self.name}.rounding=nearest)"
            )
        return self.statistics.tensors[tensor]
