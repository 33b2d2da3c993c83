"""Each stage's first call at export, and what its layers see of it: enough to quantize a stage of random weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from illume_calibration.graph_file import graph_from_stage, with_taps
from illume_calibration.layers import layers_of
from illume_calibration.statistics import StageStatistics, TensorStatistics
from illume_export.stage import Arrays, Stage
from illume_runtime.bundle import Bundle
from illume_runtime.ort import DISABLED_OPTIMIZERS


class _StopError(Exception):
    """The stage's first call was seen."""


def first_call(stage: Stage) -> Arrays:
    """The inputs with which the stage is first compared at export."""
    found: list[Arrays] = []

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        found.append(feeds)
        raise _StopError

    with pytest.raises(_StopError):
        stage.errors(run)
    return found[0]


def statistics_of_call(bundle: Bundle, name: str, feeds: Arrays) -> StageStatistics:
    """What calibration would know of the stage after this call alone."""
    graph = graph_from_stage(bundle.path, bundle.stage(name))
    layers, statistics = layers_of(graph.graph), StageStatistics()
    axes = {layer.input: -1 if layer.kind == "linear" else 1 for layer in layers}
    axes |= {layer.output: 1 for layer in layers if layer.kind == "conv"}
    seen = outputs_of(with_taps(graph, list(axes)), feeds, list(axes)) | dict(feeds)
    for tensor, axis in axes.items():
        statistics.tensors[tensor] = TensorStatistics(axis)
        statistics.tensors[tensor].add(seen[tensor])
    return statistics


def plain_session(model: onnx.ModelProto, **options: object) -> ort.InferenceSession:
    """On one thread of the CPU, with the optimizers of ours that are left."""
    with_options = ort.SessionOptions()
    with_options.intra_op_num_threads = 1
    with_options.log_severity_level = 3
    for name, value in options.items():
        setattr(with_options, name, value)
    return ort.InferenceSession(
        model.SerializeToString(), with_options, ["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
    )


def outputs_of(model: onnx.ModelProto, feeds: Arrays, names: list[str]) -> dict[str, np.ndarray]:
    """Outputs by the specification, operator by operator; what is fed is no output."""
    names = list(dict.fromkeys(name for name in names if name not in feeds))
    if not names:
        return {}
    session = plain_session(model, graph_optimization_level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))
