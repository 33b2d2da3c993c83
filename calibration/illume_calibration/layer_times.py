"""What a layer takes by itself, in float and quantized: a graph of one node, at the shapes of real calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from illume_calibration.graph_file import with_taps
from illume_calibration.layers import Layer
from illume_calibration.qdq import QuantizedLayer, quantize_graph
from illume_calibration.reservoir import Call
from illume_runtime.ort import DISABLED_OPTIMIZERS, LOG_SEVERITY

RUNS: Final = 5
SCALE: Final = np.float32(0.05)  # of activations: no time depends on it
Shapes = Counter[tuple[int, ...]]


def input_shapes(model: onnx.ModelProto, layers: Sequence[Layer], calls: Sequence[Call]) -> dict[str, Shapes]:
    """The shapes of each layer's input by layer, and how many of the calls have them."""
    names = list(dict.fromkeys(layer.input for layer in layers))
    inputs = {value.name for value in model.graph.input}
    tapped = [name for name in names if name not in inputs]
    session = _session(with_taps(model, tapped), None)
    found: dict[str, Shapes] = {layer.name: Counter() for layer in layers}
    for call in calls:
        seen = dict(call.inputs) | dict(zip(tapped, session.run(tapped, dict(call.inputs)), strict=True))
        for layer in layers:
            found[layer.name][seen[layer.input].shape] += 1
    return found


def saved_ms(model: onnx.ModelProto, layer: Layer, how: QuantizedLayer, shapes: Shapes, threads: int | None) -> float:
    """How much sooner the quantized layer is done, the mean over the calls; both take turns, the best of a few."""
    alone = _alone(model, layer)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(alone)
    quantize_graph(quantized, {layer.name: how})
    sessions = [_session(one, threads) for one in (alone, quantized)]
    total = 0.0
    for shape, count in shapes.items():
        feeds = {layer.input: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
        best = [np.inf, np.inf]
        for _ in range(RUNS):
            for side, session in enumerate(sessions):
                start = perf_counter()
                session.run(None, feeds)
                best[side] = min(best[side], perf_counter() - start)
        total += count * (best[0] - best[1]) * 1e3
    return total / max(shapes.total(), 1)


def _alone(model: onnx.ModelProto, layer: Layer) -> onnx.ModelProto:
    """The model of this node alone."""
    node = model.graph.node[layer.node]
    constants: Mapping[str, onnx.TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
    graph = helper.make_graph(
        [node],
        layer.name,
        [helper.make_tensor_value_info(layer.input, onnx.TensorProto.FLOAT, None)],
        [onnx.ValueInfoProto(name=layer.output)],
        [constants[name] for name in node.input[1:] if name],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _session(model: onnx.ModelProto, threads: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = LOG_SEVERITY
    return ort.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
    )
