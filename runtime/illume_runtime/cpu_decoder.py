"""The decoder as ONNX Runtime's CPU runs it: the attention of a layer is one node instead of thirteen.

    Reshape, Transpose of q, k, v            GroupQueryAttention (com.microsoft): rotates, writes the cache in place,
    RotaryEmbedding of q, k           ->     attends to the slots up to each token's own
    TensorScatter of k, v
    Attention, Transpose, Reshape

The bundle keeps the graph in standard operators, for every other backend. Products, and what quantization put around
them, are not touched. As there, a row's tokens go to the slots from its first position on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from illume_runtime.onnx_file import file_with_nodes, new_node
from illume_runtime.onnx_graph import INT32, Graph, Node, graph_from_file, numbers_of

DOMAIN: Final = "com.microsoft"
EXPORTED: Final = {  # operator -> its attributes, where only these will do
    "Transpose": {"perm": (0, 2, 1, 3)},
    "TensorScatter": {"axis": (-2,)},
    "RotaryEmbedding": {},
    "GatherND": {"batch_dims": (0,)},
    "Concat": {"axis": (0,)},
}
WIDTH_STEP: Final = 16  # GroupQueryAttention rotates heads whose width is a multiple of it
SEQLENS, TOTAL, COUNTS, ONE = (f"cpu_decoder.{name}" for name in ("seqlens", "total", "counts", "one"))


class _OtherGraphError(Exception):
    """The graph does not consist of such layers."""


@dataclass(frozen=True, slots=True)
class _Attention:
    """The attention of one layer: whose outputs its node has, and what the node reads."""

    end: Node  # the last Reshape
    scatters: tuple[Node, Node]
    inputs: tuple[str, str, str]  # q, k, v [B, T, heads x E]
    rope: tuple[str, ...]  # tables of cosines and sines [max_context, E / 2]
    num_heads: int
    num_kv_heads: int
    scale: bytes

    def node(self) -> Node:
        """The one node."""
        caches = (scatter.inputs[0] for scatter in self.scatters)
        unused = ("",) * 7  # from position_ids to k_norm_weight
        return new_node(
            "GroupQueryAttention",
            (*self.inputs, *caches, SEQLENS, TOTAL, *self.rope, *unused, COUNTS),
            (self.end.outputs[0], *(scatter.outputs[0] for scatter in self.scatters)),
            DOMAIN,
            self.scale,
            num_heads=self.num_heads,
            kv_num_heads=self.num_kv_heads,
            do_rotary=1,
        )


def cpu_decoder(path: Path) -> bytes | None:
    """The rewritten graph of a decoder's file; None where it has other layers. Raises InvalidBundleError.

    External data are sought in the folder that the file is in.
    """
    graph = graph_from_file(path)
    try:
        layers = _layers(graph)
    except _OtherGraphError:
        return None
    ends = {layer.end.outputs: layer.node() for layer in layers}
    written = {scatter.outputs for layer in layers for scatter in layer.scatters}
    nodes = [ends.get(node.outputs, node) for node in graph.nodes if node.outputs not in written]
    first = min(nodes.index(node) for node in ends.values())
    nodes[first:first] = _lengths(graph, layers[0].scatters[0].inputs[2])
    return file_with_nodes(path, graph, nodes, {ONE: 1}, DOMAIN)


def _layers(graph: Graph) -> list[_Attention]:
    """All attention of a graph. Raises _OtherGraphError."""
    producers = {name: node for node in graph.nodes for name in node.outputs}
    consumers = {name: node for node in graph.nodes for name in node.inputs}
    layers = [
        _attention(node, producers, consumers, graph.constants) for node in graph.nodes if node.op_type == "Attention"
    ]
    if len({(layer.rope, layer.scatters[0].inputs[2]) for layer in layers}) != 1:
        raise _OtherGraphError
    return layers


def _attention(
    node: Node,
    producers: Mapping[str, Node],
    consumers: Mapping[str, Node],
    constants: Mapping[str, tuple[int, ...]],
) -> _Attention:
    """What stands around one Attention. Raises _OtherGraphError."""
    _, end = _path(consumers, node.outputs[0], "Transpose", "Reshape")
    q_rotation, _, q_heads = _path(producers, node.inputs[0], "RotaryEmbedding", "Transpose", "Reshape")
    (k_scatter,) = _path(producers, node.inputs[1], "TensorScatter")
    (v_scatter,) = _path(producers, node.inputs[2], "TensorScatter")
    k_rotation, _, k_heads = _path(producers, k_scatter.inputs[1], "RotaryEmbedding", "Transpose", "Reshape")
    _, v_heads = _path(producers, v_scatter.inputs[1], "Transpose", "Reshape")
    tables = [_path(producers, name, "GatherND")[0] for name in q_rotation.inputs[1:]]
    num_heads, width = _heads(q_heads, producers, constants)
    num_kv_heads, _ = _heads(k_heads, producers, constants)
    if (
        width % WIDTH_STEP
        or node.attributes.keys() != {"scale"}
        or q_rotation.inputs[1:] != k_rotation.inputs[1:]
        or k_scatter.inputs[2:] != v_scatter.inputs[2:]
    ):
        raise _OtherGraphError
    return _Attention(
        end=end,
        scatters=(k_scatter, v_scatter),
        inputs=(q_heads.inputs[0], k_heads.inputs[0], v_heads.inputs[0]),
        rope=tuple(table.inputs[0] for table in tables),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        scale=node.attributes["scale"],
    )


def _path(neighbours: Mapping[str, Node], name: str, *ops: str) -> list[Node]:
    """The nodes of these operators one behind the other, up or down from a value. Raises _OtherGraphError."""
    found: list[Node] = []
    for op in ops:
        node = neighbours.get(name)
        if node is None or node.op_type != op or not _as_exported(node):
            raise _OtherGraphError
        found.append(node)
        name = node.outputs[0] if name in node.inputs else node.inputs[0]
    return found


def _as_exported(node: Node) -> bool:
    """Whether a node does what the exporter's nodes of its kind do."""
    said = {name: numbers_of(attribute) for name, attribute in node.attributes.items()}
    return said == EXPORTED.get(node.op_type, said)


def _heads(reshape: Node, producers: Mapping[str, Node], constants: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Number and width of the heads that [B, T, heads x E] is divided into. Raises _OtherGraphError."""
    (shape,) = _path(producers, reshape.inputs[1], "Concat")
    numbers = [constants.get(name, ()) for name in shape.inputs[2:]]
    if [len(number) for number in numbers] != [1, 1]:
        raise _OtherGraphError
    return numbers[0][0], numbers[1][0]


def _lengths(graph: Graph, start: str) -> list[Node]:
    """Nodes that tell GroupQueryAttention, from each row's first position [B], how many tokens a row has and brings."""
    (gather,) = _path({name: node for node in graph.nodes for name in node.outputs}, start, "Gather")
    positions = gather.inputs[0]
    new, rows, ends, last, longest, counts = (
        f"cpu_decoder.{n}" for n in ("new", "rows", "ends", "last", "longest", "c")
    )
    return [
        new_node("Shape", (positions,), (new,), start=1, end=2),
        new_node("Shape", (positions,), (rows,), start=0, end=1),
        new_node("Add", (start, new), (ends,)),
        new_node("Sub", (ends, ONE), (last,)),
        new_node("Cast", (last,), (SEQLENS,), to=INT32),
        new_node("ReduceMax", (ends,), (longest,), keepdims=0),
        new_node("Cast", (longest,), (TOTAL,), to=INT32),
        new_node("Expand", (new, rows), (counts,)),
        new_node("Cast", (counts,), (COUNTS,), to=INT32),
    ]
