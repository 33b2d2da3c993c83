"""What one request takes of memory: weights and activations of each stage, and the cache, for the largest request.

That is a guided picture of the first resolution, drawn from a picture: two rows in the token loop and in diffusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from illume_export.activations import activation_bytes
from illume_export.checkpoint import Checkpoint
from illume_export.onnx_from_stage import onnx_from_stage
from illume_export.onnx_weights import nominal_bytes
from illume_runtime.bundle import Bundle
from illume_runtime.cache import slots_for
from illume_runtime.manifest import Grammar, ModelSpec, Vocabulary
from illume_runtime.schedule import schedule_from_resolution
from illume_runtime.typed_json import value_from_json

PROMPT_TOKENS = 64  # of text around a picture
GUIDED_ROWS = 2
DIFFUSION_STEPS = 20
FLOAT32_BYTES = 4
GUIDED = ("decoder", "denoiser")  # whose rows guidance doubles
TOKEN_LOOP = ("decoder", "head_")  # what the token loop uses, beginnings of names
HALF = ("float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class StageNeeds:
    """Bytes of one stage."""

    name: str
    weight_bytes: int
    activation_bytes: int

    @property
    def in_token_loop(self) -> bool:
        """Whether it is used between two tokens."""
        return self.name.startswith(TOKEN_LOOP)


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of all stages and of the cache."""

    name: str
    stages: tuple[StageNeeds, ...]
    cache_bytes: int

    def peak_bytes(self, policy: str) -> int:
        """`all`: every stage stays loaded; `staged`: those of one phase at a time, the token loop being one phase."""
        loop = [stage for stage in self.stages if stage.in_token_loop]
        loop_activations = max((stage.activation_bytes for stage in loop), default=0)
        if policy == "all":
            weights = sum(stage.weight_bytes for stage in self.stages)
            return weights + self.cache_bytes + max(stage.activation_bytes for stage in self.stages)
        phases = [s.weight_bytes + s.activation_bytes for s in self.stages if not s.in_token_loop]
        return max(sum(s.weight_bytes for s in loop) + self.cache_bytes + loop_activations, *phases)


def needs_from_bundle(bundle: Bundle, device: str) -> Needs:
    """Of a bundle, from its manifest and graphs; no weight is read."""
    sizes = _sizes(bundle.model, bundle.grammar, bundle.vocabulary)
    cast = device == "cpu" and bundle.manifest.precision in HALF  # once, while loading
    stages = tuple(
        StageNeeds(
            name,
            FLOAT32_BYTES * spec.params if cast else spec.weight_bytes,
            activation_bytes(ir.load(bundle.stage_path(name)).graph, _of_stage(name, sizes)),
        )
        for name, spec in bundle.stages.items()
    )
    return Needs(bundle.name, stages, _cache_bytes(bundle.model, sizes))


def needs_from_checkpoint(checkpoint: Checkpoint, device: str) -> Needs:
    """Of a model whose weights are deferred: each stage is traced, no weight is read."""
    parts = checkpoint.specification
    model: ModelSpec = value_from_json(ModelSpec, parts["model"], "model")
    grammar: Grammar = value_from_json(Grammar, parts["grammar"], "grammar")
    vocabulary: Vocabulary = value_from_json(Vocabulary, parts["vocabulary"], "vocabulary")
    sizes = _sizes(model, grammar, vocabulary)
    precision = "float32" if device == "cpu" else checkpoint.precision
    stages = []
    for stage in checkpoint.stages:
        graph, weights = onnx_from_stage(stage)
        num_bytes = sum(nominal_bytes(tensor, precision) for tensor in weights.values())
        stages.append(StageNeeds(stage.name, num_bytes, activation_bytes(graph.graph, _of_stage(stage.name, sizes))))
    return Needs(checkpoint.name, tuple(stages), _cache_bytes(model, sizes))


def _sizes(model: ModelSpec, grammar: Grammar, vocabulary: Vocabulary) -> dict[str, int]:
    """The named dimensions: the sizes of the request."""
    resolution = grammar.image.resolutions[0]
    schedule = schedule_from_resolution(resolution, vocabulary)
    rows, columns = resolution.grids[-1]
    coarse = resolution.grids[0][0] * resolution.grids[0][1]
    prompt = PROMPT_TOKENS + schedule.num_input_tokens
    slots = min(slots_for(prompt + schedule.num_tokens), model.max_context)
    prompt = min(prompt, slots)
    return {"B": 1, "T": prompt, "S": slots, "Y": rows, "X": columns, "M": coarse, "K": DIFFUSION_STEPS}


def _of_stage(name: str, sizes: Mapping[str, int]) -> dict[str, int]:
    return {**sizes, "B": GUIDED_ROWS if name in GUIDED else 1}


def _cache_bytes(model: ModelSpec, sizes: Mapping[str, int]) -> int:
    per_slot = 2 * model.num_layers * model.num_kv_heads * model.head_dim
    return GUIDED_ROWS * per_slot * sizes["S"] * FLOAT32_BYTES
