"""A quantized graph from a float one, its statistics and a recipe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from illume_calibration.layers import Layer, layers_of, weight_of
from illume_calibration.qdq import QuantizedLayer, quantize_graph
from illume_calibration.ranges import LEVELS, range_from_histogram
from illume_calibration.recipe import Recipe, StageRecipe, for_layers
from illume_calibration.statistics import StageStatistics
from illume_calibration.weights import QuantizedWeight, int4_in_groups, int8_per_channel
from illume_runtime.errors import UsageError
from illume_runtime.quantization import StageQuantization


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
    how = for_layers(how, name, layers)
    quantized: dict[str, QuantizedLayer] = {}
    weight_only, kept = [], []
    for layer in layers:
        if layer.name in how.keep:
            kept.append(layer.name)
            continue
        weight = _weight(name, model, layer, how)
        if how.activations == "float32" or layer.name in how.weight_only:
            weight_only.append(layer.name)
            quantized[layer.name] = QuantizedLayer(weight, None, None)
            continue
        input_scale = _scale(name, layer.input, statistics, recipe)
        output_scale = _scale(name, layer.output, statistics, recipe) if layer.kind == "conv" else None
        quantized[layer.name] = QuantizedLayer(weight, input_scale, output_scale)
    quantize_graph(model, quantized)
    report = StageQuantization(
        weights=how.weights,
        activations=how.activations,
        num_layers=len(quantized),
        weight_only=tuple(weight_only),
        kept=tuple(kept),
    )
    weight_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    return Quantized(report, weight_bytes)


def _weight(stage: str, model: onnx.ModelProto, layer: Layer, how: StageRecipe) -> QuantizedWeight:
    weight = weight_of(model.graph, layer)
    if not np.isfinite(weight).all():
        raise UsageError(f"{stage}: {layer.name}: has weights that are not finite; train or export the model again")
    if how.weights == "int8" or layer.kind == "conv":
        return int8_per_channel(weight, layer.axis)
    try:
        return int4_in_groups(weight, how.group_size)
    except ValueError as error:
        raise UsageError(f"{stage}: {layer.name}: {error}; name it in keep, or choose another group_size") from error


def _scale(stage: str, tensor: str, statistics: StageStatistics | None, recipe: Recipe) -> np.float32:
    if statistics is None or tensor not in statistics.tensors:
        raise UsageError(
            f"{stage}: no calibration request reached it; add requests that do, or quantize its weights alone "
            f"(--set {stage}.activations=float32)"
        )
    try:
        found = range_from_histogram(statistics.tensors[tensor].histogram, recipe.method, recipe.percentile)
    except ValueError as error:
        raise UsageError(f"{stage}: {tensor}: {error}; add requests, or choose another --method") from error
    return np.float32(found / LEVELS)
