"""Rule: a graph holds no trace of the machine that made it.

The exporter stores stack traces with file paths in every node; without them equal weights give equal files.
"""

from __future__ import annotations

import onnx_ir as ir


def bare_graph(model: ir.Model, name: str) -> None:
    """Remove documentation strings and metadata from `model` in place, and call the graph `name`."""
    model.producer_name, model.producer_version = "illume-rt", None
    model.doc_string = None
    model.graph.name = name
    model.graph.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        node.doc_string = None
        node.metadata_props.clear()
        values.extend(node.outputs)
    for value in values:
        value.doc_string = None
        value.metadata_props.clear()
