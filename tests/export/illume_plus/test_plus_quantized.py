"""Every stage of the small model by the family's recipe: which layers are quantized, and the graph beside PyTorch that
simulates the same rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from first_calls import first_call, outputs_of, plain_session, statistics_of_call
from onnx import numpy_helper
from simulated import Simulated, names_of_weights
from torch import Tensor

from illume_calibration.graph_file import graph_from_stage, with_taps
from illume_calibration.layers import Layer, layers_of
from illume_calibration.quantizing import quantize_stage
from illume_calibration.recipe import default_name, recipe_from_name
from illume_export.families.illume_plus import folders_in, plus_from_folders
from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.stages import stages_from_model
from illume_export.stage import Arrays, Stage
from illume_runtime.bundle import Bundle

# What the recipe leaves in float32, and what it quantizes in the weights alone; everything else is int8 on both sides.
FLOAT = {
    "vision_encoder": ["pixel_encoder.conv_in"],
    "decoder": [],
    "head_text": [],
    "head_level0": [],
    "head_level1": [],
    "image_tokenizer": [
        "semantic_encoder.proj_out.0",
        "pixel_encoder.conv_in",
        "pixel_quant_conv",
        "semantic_codes",
        "pixel_codes",
    ],
    "vq_decoder": ["pixel_post_quant_conv", "pixel_decoder.conv_in", "pixel_decoder.conv_out"],
    "conditioner": ["code_features"],
    "denoiser": ["conv_in", "conv_out"],
    "vae_decoder": ["post_quant_conv", "decoder.conv_in", "decoder.conv_out"],
}
WEIGHTS_ALONE = {"decoder": "layers.*", "conditioner": "step_shifts*"} | {
    f"head_{segment}": "weight" for segment in ("text", "level0", "level1")
}
TOLERANCE = 1e-4  # of the largest value of a tensor, or of 1


@dataclass
class Quantized:
    """A stage, one call of it, its layers, and its graph by the recipe with what it gave for that call."""

    stage: Stage
    feeds: Arrays
    layers: tuple[Layer, ...]
    model: onnx.ModelProto
    outputs: Arrays


@pytest.fixture(scope="module")
def model(published_folder: Path) -> IllumePlus:
    return plus_from_folders(folders_in(published_folder))


@pytest.fixture(scope="module")
def quantized(model: IllumePlus, published_bundle: Path) -> Callable[[str], Quantized]:
    stages, made = {stage.name: stage for stage in stages_from_model(model)}, dict[str, Quantized]()

    def of(name: str) -> Quantized:
        if name not in made:
            made[name] = _quantized(stages[name], Bundle.open(published_bundle))
        return made[name]

    assert list(stages) == list(FLOAT)
    return of


def _quantized(stage: Stage, bundle: Bundle) -> Quantized:
    feeds = first_call(stage)
    graph = graph_from_stage(bundle.path, bundle.stage(stage.name))
    layers = layers_of(graph.graph)
    recipe = recipe_from_name(default_name(bundle.family))
    how = recipe.stage(stage.name)
    assert how is not None
    statistics = statistics_of_call(bundle, stage.name, feeds)
    quantize_stage(stage.name, graph, statistics, replace(recipe, method="minmax"), how)
    onnx.checker.check_model(graph)
    rounded = [node.output[0] for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    inputs = [layer.input for layer in layers]
    names = [*(output.name for output in stage.outputs), *rounded, *inputs]
    return Quantized(stage, feeds, layers, graph, outputs_of(with_taps(graph, [*rounded, *inputs]), feeds, names))


def _simulated(quantized: Quantized, model: IllumePlus, mode: Simulated) -> dict[str, Tensor]:
    """The stage's outputs by PyTorch; the decoder's are those of the plain language model, which has no cache."""
    feeds = {name: torch.from_numpy(array) for name, array in quantized.feeds.items()}
    with torch.no_grad(), mode:
        if quantized.stage.name == "decoder":
            outputs = model.mllm.language_model(feeds["inputs_embeds"])
        else:
            outputs = quantized.stage.module(*feeds.values())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return dict(zip((output.name for output in quantized.stage.outputs), outputs, strict=False))


def _steps(model: onnx.ModelProto) -> dict[str, float]:
    """The scale of each QuantizeLinear, by the layer and the side."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.output[0].removesuffix(".int8"): float(numpy_helper.to_array(constants[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def _close(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    error = np.abs(got - expected).max() / max(1.0, np.abs(expected).max())
    assert error <= TOLERANCE, (what, error)


@pytest.mark.parametrize("name", FLOAT)
def test_every_layer_is_quantized_where_the_recipe_says(
    model: IllumePlus, quantized: Callable[[str], Quantized], name: str
) -> None:
    found = quantized(name)
    plain = Simulated(names_of_weights(found.stage.module))
    _simulated(found, model, plain)
    assert {layer.name: layer.kind for layer in found.layers} == {n: seen.kind for n, seen in plain.seen.items()}

    kept = FLOAT[name]
    alone = {n for n in plain.seen if fnmatchcase(n, WEIGHTS_ALONE.get(name, ""))}
    assert [layer.name for layer in layers_of(found.model.graph)] == kept
    int8 = set(plain.seen) - set(kept) - alone
    expected = {f"{n}.input" for n in int8} | {f"{n}.output" for n in int8 if plain.seen[n].kind == "conv"}
    steps = _steps(found.model)
    assert set(steps) == expected
    for side, step in steps.items():
        layer, _, end = side.rpartition(".")
        largest = plain.seen[layer].largest_input if end == "input" else plain.seen[layer].largest_output
        assert step == pytest.approx(largest / 127, rel=1e-3), side
    weights = [t for t in found.model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and t.dims]
    assert len(weights) == len(int8 | alone)


@pytest.mark.parametrize("name", FLOAT)
def test_the_graph_is_the_module_with_simulated_quantization(
    model: IllumePlus, quantized: Callable[[str], Quantized], name: str
) -> None:
    found = quantized(name)
    names = names_of_weights(found.stage.module)
    alone = {n for n in names.values() if fnmatchcase(n, WEIGHTS_ALONE.get(name, ""))}
    integers = {n.removesuffix(".int8"): array for n, array in found.outputs.items() if n.endswith(".int8")}
    mode = Simulated(names, FLOAT[name], alone, _steps(found.model), integers)
    outputs = _simulated(found, model, mode)
    assert mode.ties <= 1e-3 * mode.rounded
    for layer in found.layers:
        graph = found.outputs[layer.input] if layer.input in found.outputs else found.feeds[layer.input]
        _close(graph.reshape(mode.seen[layer.name].inputs.shape), mode.seen[layer.name].inputs.numpy(), layer.name)
    for output, expected in outputs.items():
        if name == "image_tokenizer":
            assert np.array_equal(found.outputs[output], expected.numpy())
        else:
            _close(found.outputs[output], expected.numpy(), output)


@pytest.mark.parametrize("name", FLOAT)
def test_onnx_runtime_makes_integer_kernels_of_them(
    quantized: Callable[[str], Quantized], name: str, tmp_path: Path
) -> None:
    found = quantized(name)
    plain_session(found.model, optimized_model_filepath=str(tmp_path / "optimized.onnx"))
    kernels = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    alone = {layer.name for layer in found.layers if fnmatchcase(layer.name, WEIGHTS_ALONE.get(name, ""))}
    int8 = [layer for layer in found.layers if layer.name not in (*FLOAT[name], *alone)]
    assert kernels["MatMulIntegerToFloat"] == sum(layer.kind == "linear" for layer in int8)
    assert kernels["QLinearConv"] == sum(layer.kind == "conv" for layer in int8)
    assert kernels["MatMulNBits"] == len(alone - set(FLOAT[name]))
