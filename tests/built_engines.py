"""An engine of one stage, by TensorRT for RTX without a GPU, and what has to hold of every one."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import onnx

from illume_export.engines.attention import FUSED_WIDTHS, heads_of
from illume_export.engines.builder import Options, PlannedEngine, build_engine, engine_plan
from illume_runtime.bundle import Bundle
from illume_runtime.engine_record import EngineRecord

OPTIONS = Options("tensorrt-rtx", "8.6,8.9")
PRODUCTS = ("gemm", "correlation")  # kernels of matrices and of convolutions
REPEATED = "ReshRepl"  # in the name of a kernel that copies keys or values for each query head
TYPES = {"float16": "Half", "bfloat16": "BFloat16"}
ENDING = re.compile(r"_myl\d+_\d+$| \[profile \d+\]")  # what TensorRT adds to the names of the nodes that a kernel is


def planned_engine(bundle: Path, stage: str, folder: Path, options: Options = OPTIONS) -> PlannedEngine:
    (planned,) = engine_plan(Bundle.open(bundle), folder, options, [stage])
    return planned


def built_engine(bundle: Path, stage: str, folder: Path, options: Options = OPTIONS, **changes: object) -> EngineRecord:
    """Build it and check it; `changes` are of the plan."""
    planned = dataclasses.replace(planned_engine(bundle, stage, folder, options), **changes)
    record = build_engine(planned, options)
    graph = onnx.load(planned.onnx, load_external_data=False)
    heads = heads_of(graph).values()
    profiles = len(planned.profiles)  # each has kernels of its own
    assert record.attentions == len(heads)
    if heads:
        assert record.fused == profiles * sum(head.width in FUSED_WIDTHS for head in heads)
        assert not any(REPEATED in layer.name for layer in record.layers)
    assert record.caches == sum("_cache_" in port.name for port in graph.graph.input)
    assert len(record.activation_bytes) == profiles
    assert all(record.activation_bytes)
    floats = {layer.dtype for layer in record.layers if layer.type in PRODUCTS} - {"Int8", "FP8"}
    assert floats <= {TYPES[record.precision]}
    return record


def quantized_nodes(path: Path) -> tuple[list[str], list[str]]:
    """Products and convolutions of a graph whose weights are quantized: with their activations, and without."""
    graph = onnx.load(path, load_external_data=False).graph
    maker = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    found: tuple[list[str], list[str]] = ([], [])
    for node in graph.node:
        pair = [maker.get(name) for name in node.input[:2]] if node.op_type in ("MatMul", "Conv") else [None, None]
        x, weight = (made is not None and made.op_type == "DequantizeLinear" for made in pair)
        if weight and pair[1].input[0] in constants:
            found[0 if x else 1].append(node.name)
    return found


def check_quantized(record: EngineRecord, path: Path, dtype: str = "Int8") -> tuple[int, int]:
    """Hold every quantized node of the graph to a kernel of that type, in each profile; how many of both kinds.

    Nodes whose weights alone are quantized are in kernels without a name: their number is compared.
    """
    both, alone = quantized_nodes(path)
    built = Counter[str]()
    for layer in record.layers:
        if layer.type in PRODUCTS and (layer.dtype, layer.weights) == (dtype, dtype):
            built.update(ENDING.sub("", layer.name).split("+"))  # products of one tensor are merged into one kernel
    profiles = len(record.profiles)
    assert built == Counter(dict.fromkeys(both, profiles))
    others = Counter(layer.type for layer in record.layers if layer.weights == dtype != layer.dtype)
    assert others == Counter({"runtime_fusion": profiles * len(alone)} if alone else {})
    return len(both), len(alone)
