"""What a model takes of memory before there is a bundle of it: its stages are traced, no weight is read."""

from __future__ import annotations

import onnx_ir as ir

from illume_export.families import random_checkpoint
from illume_export.onnx_from_stage import onnx_from_stage, quiet
from illume_export.onnx_weights import nominal_bytes
from illume_runtime.manifest import Grammar, ModelSpec, Vocabulary
from illume_runtime.onnx_graph import graph_from_bytes
from illume_runtime.plan.needs import FLOAT32_BYTES, Needs, needs_from_graphs
from illume_runtime.plan.weights import WeightBytes
from illume_runtime.typed_json import value_from_json


def needs_from_published(name: str, device: str, size: str | None) -> Needs:
    """Of a published model, by its name. Raises UsageError for one, or a size, that is not known."""
    checkpoint = random_checkpoint(name)
    parts = checkpoint.specification
    graphs, weights = {}, {}
    for stage in checkpoint.stages:
        model, tensors = onnx_from_stage(stage)
        with quiet():  # that weights have no values is what is wanted here
            graphs[stage.name] = graph_from_bytes(ir.to_proto(model).SerializeToString())
        stored = [nominal_bytes(tensor, checkpoint.precision) for tensor in tensors.values()]
        held = [
            max(num_bytes, FLOAT32_BYTES * t.numel()) for num_bytes, t in zip(stored, tensors.values(), strict=True)
        ]
        weights[stage.name] = WeightBytes(sum(stored), sum(held), max(held, default=0), 0, True)
    model_spec: ModelSpec = value_from_json(ModelSpec, parts["model"], "model")
    grammar: Grammar = value_from_json(Grammar, parts["grammar"], "grammar")
    vocabulary: Vocabulary = value_from_json(Vocabulary, parts["vocabulary"], "vocabulary")
    num_steps = int(parts["scheduler"]["default_steps"])
    return needs_from_graphs(checkpoint.name, weights, graphs, model_spec, grammar, vocabulary, num_steps, device, size)
