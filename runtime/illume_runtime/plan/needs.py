"""What requests take of memory, phase by phase: weights of the stages, their activations, the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from illume_runtime.bundle import Bundle
from illume_runtime.cache import slots_for
from illume_runtime.errors import UsageError
from illume_runtime.limits import LARGE_BYTES
from illume_runtime.manifest import Grammar, ModelSpec, Vocabulary
from illume_runtime.memory import fits_into
from illume_runtime.onnx_graph import Graph, graph_from_file
from illume_runtime.plan.activations import activation_bytes
from illume_runtime.plan.weights import WeightBytes, weight_bytes_of_graph
from illume_runtime.programs import Resolution
from illume_runtime.residency import Residency, phases_of
from illume_runtime.schedule import schedule_from_resolution

PROMPT_TOKENS = 64  # of text around a picture
ANSWER_TOKENS = 64
FLOAT32_BYTES = 4
GUIDED = ("decoder", "denoiser")  # whose rows guidance doubles
DIFFUSION = ("conditioner", "denoiser", "vae_decoder")
NODE_BYTES = 16 << 10  # of a session of ONNX Runtime, for each node


@dataclass(frozen=True, slots=True)
class StageNeeds:
    """Bytes of one stage; activations by the kind of request, `kept` ones until the stage is let go."""

    name: str
    kept: bool
    session_bytes: int
    weights: WeightBytes
    activations: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RequestNeeds:
    """A kind of request: its phases in order, each the stages that it uses, and the bytes of its cache."""

    kind: str
    phases: tuple[tuple[str, ...], ...]
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of all stages, and what requests use of them. `wide`: half precision is held as float32, as on a CPU."""

    name: str
    stages: Mapping[str, StageNeeds]
    requests: tuple[RequestNeeds, ...]
    wide: bool
    mapped: frozenset[str] = frozenset()

    def weight_bytes(self, name: str) -> int:
        """What a stage's weights take, mapped ones counted as what they are on disk."""
        size = self.stages[name].weights
        if not self.wide:
            return size.stored
        return size.held - size.mappable if name in self.mapped else size.held

    def peak_bytes(self, request: RequestNeeds, policy: Residency) -> int:
        """The largest sum on the way. `all`: what was loaded stays; `staged`: only the stages of one phase do."""
        resident = peak = 0
        cache = 0
        for phase in request.phases:
            if policy == "staged":
                resident = cache = 0
            for name in phase:
                size, taken = self.stages[name].weights, self.weight_bytes(name) + self.stages[name].session_bytes
                twice = size.largest if self.wide and name not in self.mapped else 0  # while it is packed
                peak = max(peak, resident + taken + twice)
                resident += taken
            cache = max(cache, request.cache_bytes if "decoder" in phase else 0)
            working = max((self.stages[name].activations.get(request.kind, 0) for name in phase), default=0)
            peak = max(peak, resident + cache + working)
            resident += sum(self.stages[n].activations.get(request.kind, 0) for n in phase if self.stages[n].kept)
        return peak

    def within(self, request: RequestNeeds, available: int, policy: Residency) -> Needs:
        """With the weights mapped that the runtime would map on a CPU where so many bytes are left to weights.

        Where all stages stay, the decoder is loaded with the bundle, before the rest.
        """
        mapped: set[str] = set()
        together = [("decoder", *chain.from_iterable(request.phases))] if policy == "all" else request.phases
        for names in together:
            left = available
            for name in dict.fromkeys(names):
                size = self.stages[name].weights
                if self.wide and size.mappable and not fits_into(size.held + size.largest, max(left, 0)):
                    mapped.add(name)
                left -= replace(self, mapped=frozenset(mapped)).weight_bytes(name)
        return replace(self, mapped=frozenset(mapped))

    def largest_bytes(self, policy: Residency) -> int:
        """The peak of the request that takes most."""
        return max(self.peak_bytes(request, policy) for request in self.requests)


def needs_from_bundle(bundle: Bundle, device: str, size: str | None = None) -> Needs:
    """Of a bundle, from its manifest and graphs; no weight is read. `size` names a resolution, None the first.

    Raises InvalidBundleError, UsageError.
    """
    graphs = {name: graph_from_file(bundle.stage_path(name)) for name in bundle.stages}
    beside = {name for name in graphs if bundle.stage_path(name).with_suffix(".onnx.data").is_file()}
    return needs_from_graphs(
        bundle.name,
        {name: weight_bytes_of_graph(graph, beside=name in beside) for name, graph in graphs.items()},
        graphs,
        bundle.model,
        bundle.grammar,
        bundle.vocabulary,
        bundle.scheduler.default_steps,
        device,
        size,
    )


def needs_from_graphs(
    name: str,
    weights: Mapping[str, WeightBytes],
    graphs: Mapping[str, Graph],
    model: ModelSpec,
    grammar: Grammar,
    vocabulary: Vocabulary,
    num_steps: int,
    device: str,
    size: str | None,
) -> Needs:
    """Of graphs that are not in a bundle yet."""
    levels = [f"head_{segment.name}" for segment in vocabulary.segments if segment.name.startswith("level")]
    pictures = _pictures(list(graphs))
    order = {"describe": ["vision_encoder", "decoder", "head_text"]}
    order |= {f"draw {quality}": ["decoder", *levels, *last] for quality, last in pictures.items()}
    order |= {f"edit {quality}": ["vision_encoder", "decoder", *levels, *last] for quality, last in pictures.items()}
    used = {kind: phases_of(name for name in names if name in graphs) for kind, names in order.items()}
    resolution = _resolution(grammar, size)
    sizes = {kind: _sizes(kind, model, resolution, vocabulary, num_steps) for kind in used}
    per_slot = 2 * model.num_layers * model.num_kv_heads * model.head_dim * FLOAT32_BYTES

    def cache_bytes(kind: str) -> int:
        return (1 if kind == "describe" else 2) * per_slot * sizes[kind]["S"]

    stages = {
        stage: StageNeeds(
            stage,
            weights[stage].stored < LARGE_BYTES,
            NODE_BYTES * len(graph.nodes) + (0 if weights[stage].beside else weights[stage].stored),
            weights[stage],
            {
                kind: activation_bytes(graph, _of_stage(stage, kind, sizes[kind]))
                for kind, them in used.items()
                if any(stage in phase for phase in them)
            },
        )
        for stage, graph in graphs.items()
    }
    return Needs(name, stages, tuple(RequestNeeds(k, p, cache_bytes(k)) for k, p in used.items()), device == "cpu")


def _pictures(names: Sequence[str]) -> dict[str, list[str]]:
    """The stages that make the pixels, by quality."""
    found: dict[str, list[str]] = {}
    if "vq_decoder" in names:
        found["draft"] = ["vq_decoder"]
    if "denoiser" in names:
        found["standard"] = list(DIFFUSION)
    return found


def _resolution(grammar: Grammar, size: str | None) -> Resolution:
    found = {resolution.name: resolution for resolution in grammar.image.resolutions}
    if size is not None and size not in found:
        raise UsageError(f"size: got {size!r}, expected one of {', '.join(found)} (width x height)")
    return grammar.image.resolutions[0] if size is None else found[size]


def _sizes(
    kind: str, model: ModelSpec, resolution: Resolution, vocabulary: Vocabulary, num_steps: int
) -> dict[str, int]:
    """The named dimensions: the sizes of the request."""
    schedule = schedule_from_resolution(resolution, vocabulary)
    rows, columns = resolution.grids[-1]
    coarse = resolution.grids[0][0] * resolution.grids[0][1]
    prompt = PROMPT_TOKENS + (0 if kind.startswith("draw") else schedule.num_input_tokens)
    new = ANSWER_TOKENS if kind == "describe" else schedule.num_tokens
    slots = min(slots_for(prompt + new), model.max_context)
    prompt = min(prompt, slots)
    return {"B": 1, "T": prompt, "S": slots, "Y": rows, "X": columns, "M": coarse, "K": num_steps}


def _of_stage(name: str, kind: str, sizes: Mapping[str, int]) -> dict[str, int]:
    guided = name in GUIDED and kind != "describe"
    return {**sizes, "B": 2 if guided else 1}
