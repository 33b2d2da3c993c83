"""Where the weights of a stage go and what they take there."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from illume_runtime.mapped_products import mapped_bytes_of
from illume_runtime.onnx_graph import Graph, graph_from_file

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Of one stage: as stored; as held in float32 where a CPU has to; the largest weight of these, which is there twice
    while it is packed; the part of `stored` that a product can read from the map of its file; and whether that lies
    beside the graph."""

    stored: int
    held: int
    largest: int
    mappable: int
    beside: bool


def weight_bytes_of_file(path: Path) -> WeightBytes:
    """Of a graph on disk; its weights are not read. Raises InvalidBundleError."""
    beside = path.with_name(f"{path.name}.data").is_file()
    return weight_bytes_of_graph(graph_from_file(path), beside=beside)


def weight_bytes_of_graph(graph: Graph, *, beside: bool) -> WeightBytes:
    """Of a graph whose weights lie beside it or within."""
    cast = {node.inputs[0] for node in graph.nodes if node.op_type == "Cast"}
    stored, held = 0, [0]
    for name, value in graph.initializers.items():
        count = prod(size for size in value.shape or () if isinstance(size, int))
        stored += count * (value.item_bytes or 0)
        held.append(count * (FLOAT32_BYTES if name in cast else value.item_bytes or 0))
    return WeightBytes(stored, sum(held), max(held), mapped_bytes_of(graph) if beside else 0, beside)
