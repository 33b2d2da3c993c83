"""An engine of one stage, by TensorRT for RTX without a GPU, and what has to hold of every one."""

from __future__ import annotations

import dataclasses
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
    floats = {layer.dtype for layer in record.layers if layer.type in PRODUCTS} - {"Int8"}
    assert floats <= {TYPES[record.precision]}
    return record
