"""A graph for the CPU whose matrices in half precision stay in their file: each is read block by block in a product.

ONNX Runtime has no product of float32 with half precision on x86: it makes float32 of a whole matrix while loading and
holds that. Here `y = MatMul(x, Cast(w))` becomes a Scan over blocks of rows of `w` [K, N], which adds up

    y += x[..., rows] @ Cast(w[rows])

and `y = Gemm(x, Cast(w), b)` with `w` [N, K] transposed becomes one that puts the columns

    y[:, rows] = x @ Cast(w[rows]).T

beside each other, so that a block in float32 never leaves the processor's cache, and the matrix is read from the map of
its file as it is stored: half the bytes, and none of them this process's own. Nothing but the order of sums changes.

Weights of other operators (convolutions, tables) stay as they are, and are held in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

from illume_runtime.onnx_file import integers_tensor, new_node
from illume_runtime.onnx_graph import (
    FLOAT,
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    MODEL_GRAPH,
    TENSOR_DIMS,
    TENSOR_NAME,
    TENSOR_RAW,
    TENSOR_TYPE,
    Graph,
    Node,
    Value,
    graph_from_bytes,
    node_at,
    numbers_of,
    tensor_at,
)
from illume_runtime.protobuf import field, fields, without

BLOCK = 1 << 20  # elements of a block, at most: 4 MB in float32
HALF_BYTES = 2


def mapped_graph(data: bytes) -> bytes:
    """The file of the new graph, for that of one beside which its weights lie. Raises IndexError if it is malformed."""
    matrices = _matrices(graph_from_bytes(data))
    parts = []
    for item in fields(data, 0, len(data)):
        if item.number == MODEL_GRAPH:
            parts.append(field(MODEL_GRAPH, _graph(data, item.start, item.end, matrices)))
        else:
            parts.append(data[item.whole : item.end])
    return b"".join(parts)


def mapped_bytes_of(graph: Graph) -> int:
    """Bytes of the matrices that stay where they are stored."""
    return HALF_BYTES * sum(rows * columns for _, rows, columns in _matrices(graph).values())


def _matrices(graph: Graph) -> dict[str, tuple[str, int, int]]:
    """What a Cast makes of a matrix in half precision that only products multiply with -> its name, rows, columns."""
    found = {}
    for node in graph.nodes:
        source = graph.initializers.get(node.inputs[0]) if node.op_type == "Cast" else None
        if source is not None and source.item_bytes == HALF_BYTES and source.shape is not None:
            users = [user for user in graph.nodes if node.outputs[0] in user.inputs]
            products = all(_is_product(user, node.outputs[0]) for user in users)
            products &= len({user.op_type for user in users}) == 1
            others = [user for user in graph.nodes if node.inputs[0] in user.inputs and user is not node]
            if products and not others and len(source.shape) == 2:
                rows, columns = (int(size) for size in source.shape if isinstance(size, int))
                found[node.outputs[0]] = (node.inputs[0], rows, columns)
    return found


def _is_product(node: Node, matrix: str) -> bool:
    """Whether it is one of the two kinds that are replaced, with the matrix on its right."""
    plain = {"transB": (1,), "transA": (0,), "alpha": (1.0,), "beta": (1.0,)}
    said = {name: numbers_of(attribute) for name, attribute in node.attributes.items()}
    gemm = node.op_type == "Gemm" and {**plain, "transB": (0,), **said} == plain
    return (node.op_type == "MatMul" or gemm) and node.inputs[1] == matrix and matrix not in node.inputs[::2]


def _graph(data: bytes, start: int, end: int, matrices: dict[str, tuple[str, int, int]]) -> bytes:
    blocks = {name: rows_of_block(rows, columns) for name, rows, columns in matrices.values()}
    parts, nodes = [], 0
    for item in fields(data, start, end):
        part = data[item.whole : item.end]
        if item.number == GRAPH_NODE:
            node = node_at(data, item)
            if node.op_type == "Cast" and node.outputs[0] in matrices:
                continue
            if node.op_type in ("MatMul", "Gemm") and node.inputs[1] in matrices:
                name, rows, columns = matrices[node.inputs[1]]
                make = _product if node.op_type == "MatMul" else _transposed
                part = make(f"mapped.{nodes}", node, name, rows, columns, blocks[name])
                nodes += 1
        elif item.number == GRAPH_INITIALIZER:
            name, value = tensor_at(data, item)
            if name in blocks:
                part = field(GRAPH_INITIALIZER, _reshaped(data, item.start, item.end, value, blocks[name]))
        parts.append(part)
    return b"".join(parts)


def rows_of_block(rows: int, columns: int) -> int:
    """The largest divisor of `rows` with which a block has no more than BLOCK elements; one at least."""
    return max((size for size in range(1, rows + 1) if rows % size == 0 and size * columns <= BLOCK), default=1)


def _reshaped(data: bytes, start: int, end: int, value: Value, block: int) -> bytes:
    """The tensor [K, N] as [K / block, block, N]: the same bytes."""
    assert value.shape is not None
    rows, columns = (int(size) for size in value.shape if isinstance(size, int))
    dims = b"".join(field(TENSOR_DIMS, size) for size in (rows // block, block, columns))
    return dims + without(data, start, end, {TENSOR_DIMS})


def _product(prefix: str, node: Node, name: str, rows: int, columns: int, block: int) -> bytes:
    """The nodes in place of one MatMul of x [..., K]."""
    (x, _), (y,) = node.inputs, node.outputs

    def own(what: str) -> str:
        return f"{prefix}.{what}"

    body = b"".join(
        [
            _node("Cast", ["w"], ["wide"], to=FLOAT),
            _node("MatMul", ["x", "wide"], ["part"]),
            _node("Add", ["sum", "part"], ["next"]),
            field(2, own("body")),
            *(field(11, _typed(value, FLOAT)) for value in ("sum", "x")),
            field(11, _typed("w", 0)),
            field(12, _typed("next", FLOAT)),
        ]
    )
    axes = [-2, 0]  # the last but one of [..., K / block, block]
    return b"".join(
        [
            field(GRAPH_INITIALIZER, integers_tensor(own("split"), [rows // block, block])),
            field(GRAPH_INITIALIZER, integers_tensor(own("columns"), [columns])),
            field(GRAPH_INITIALIZER, _scalar(own("zero"))),
            _node("Shape", [x], [own("rest")], end=-1),
            _node("Concat", [own("rest"), own("split")], [own("shape")], axis=0),
            _node("Concat", [own("rest"), own("columns")], [own("sums")], axis=0),
            _node("Reshape", [x, own("shape")], [own("x")]),
            _node("Expand", [own("zero"), own("sums")], [own("zeros")]),
            _node("Scan", [own("zeros"), own("x"), name], [y], body=body, num_scan_inputs=2, scan_input_axes=axes),
        ]
    )


def _transposed(prefix: str, node: Node, name: str, rows: int, columns: int, block: int) -> bytes:
    """The nodes in place of one Gemm of x [M, K] with a matrix [N, K]."""
    x, _, *bias = node.inputs
    (y,) = node.outputs

    def own(what: str) -> str:
        return f"{prefix}.{what}"

    body = b"".join(
        [
            _node("Cast", ["w"], ["wide"], to=FLOAT),
            _node("Gemm", [x, "wide"], ["part"], transB=1),
            field(2, own("body")),
            field(11, _typed("w", 0)),
            field(12, _typed("part", FLOAT)),
        ]
    )
    product = own("product") if bias else y
    nodes = [
        field(GRAPH_INITIALIZER, integers_tensor(own("shape"), [0, rows])),
        _node("Scan", [name], [own("parts")], body=body, num_scan_inputs=1, scan_output_axes=[1]),
        _node("Reshape", [own("parts"), own("shape")], [product]),
    ]
    return b"".join([*nodes, *([_node("Add", [product, bias[0]], [y])] if bias else [])])


def _node(op_type: str, inputs: list[str], outputs: list[str], **attributes: int | Sequence[int] | bytes) -> bytes:
    """A field of a graph."""
    return field(GRAPH_NODE, new_node(op_type, inputs, outputs, "", **attributes).source)


def _typed(name: str, element: int) -> bytes:
    """A ValueInfoProto without a shape; type 0: as it comes."""
    return field(1, name) + (field(2, field(1, field(1, element))) if element else b"")


def _scalar(name: str) -> bytes:
    return field(TENSOR_TYPE, FLOAT) + field(TENSOR_NAME, name) + field(TENSOR_RAW, bytes(4))
