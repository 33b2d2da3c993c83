"""The ONNX graph of a stage: traced once by PyTorch without its weights, in standard operators, every name stable."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.optimizer import optimize_ir
from torch._subclasses.fake_tensor import FakeTensorMode

from illume_export.hollow import hollow
from illume_export.passes.bare_graph import bare_graph
from illume_export.passes.moved_weights import Weights, moved_weights
from illume_export.stage import Stage, example_of, factor_and_name
from illume_runtime.errors import ExportError
from illume_runtime.manifest import TensorSpec

# All different and none 1: what is equal by chance would be tied.
EXAMPLE_SIZES = {"B": 3, "T": 5, "S": 48, "Y": 7, "X": 4, "M": 6, "K": 9}
STANDARD_DOMAINS = ("", "ai.onnx")


def onnx_from_stage(stage: Stage) -> tuple[ir.Model, Weights]:
    """The graph, and the tensors that belong to its initializers by name: deferred ones are not read.

    An initializer is called as the parameter or buffer whose values it holds. Raises ExportError if the graph is not
    what the stage declares.
    """
    dims = {name: torch.export.Dim(name) for name in EXAMPLE_SIZES}  # a shared name is a shared size

    def dim_of(dimension: str) -> Any:
        factor, name = factor_and_name(dimension)
        return dims[name] if factor == 1 else factor * dims[name]

    dynamic = tuple({i: dim_of(n) for i, n in enumerate(spec.shape) if isinstance(n, str)} for spec in stage.inputs)
    try:
        with FakeTensorMode():
            module, example = hollow(stage.module).eval(), example_of(stage, EXAMPLE_SIZES)
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=stage.opset,
                dynamic_shapes=_per_argument(stage, dynamic),
                input_names=[spec.name for spec in stage.inputs],
                verbose=False,
                optimize=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"{stage.name}: PyTorch cannot trace it: {error}") from error
    if program is None:
        raise ExportError(f"{stage.name}: PyTorch gave back no graph")
    model = program.model
    tensors = dict([*stage.module.named_parameters(), *stage.module.named_buffers()])
    weights = {name: tensors[name] for name in model.graph.initializers if name in tensors}
    for name in weights:
        model.graph.initializers[name].const_value = None  # nothing to fold: it has no values
    with quiet():
        optimize_ir(model)
    weights = {name: tensor for name, tensor in weights.items() if name in model.graph.initializers}
    moved_weights(model, weights)
    bare_graph(model, stage.name)
    _name_sizes(model, _symbols_of(program.exported_program, stage))
    _name_outputs(model, stage)
    _check(model, stage)
    return model, weights


def _per_argument(stage: Stage, dynamic: tuple[Mapping[int, object], ...]) -> tuple[object, ...]:
    """The dynamic dimensions in the structure of the module's arguments: `*args` takes one tuple."""
    code = type(stage.module).forward.__code__
    has_rest = bool(code.co_flags & 0x04)  # CO_VARARGS
    named = code.co_argcount - 1
    return (*dynamic[:named], dynamic[named:]) if has_rest else dynamic


def _symbols_of(program: torch.export.ExportedProgram | None, stage: Stage) -> dict[str, str]:
    """PyTorch's own symbols of sizes -> what the stage calls them: `s41` -> `Y` where an input has 16 s41 for 16*Y."""
    assert program is not None
    names = set(program.graph_signature.user_inputs)
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    found = {}
    for tensor, spec in zip(inputs, stage.inputs, strict=True):
        for size, dimension in zip(tensor.shape, spec.shape, strict=True):
            if isinstance(size, torch.SymInt) and isinstance(dimension, str):
                factor, name = factor_and_name(dimension)
                root = size.node.expr / factor
                found[str(root if root.is_Symbol else size.node.expr)] = name if root.is_Symbol else f"({dimension})"
    return found


def _name_sizes(model: ir.Model, symbols: Mapping[str, str]) -> None:
    """Call the sizes within the graph as the stage does."""

    def named(match: re.Match[str]) -> str:
        return symbols.get(match[0], match[0])

    for value in (output for node in model.graph for output in node.outputs):
        if value.shape is not None:
            dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
            value.shape = ir.Shape([re.sub(r"\w+", named, dim) if isinstance(dim, str) else dim for dim in dims])


def _name_outputs(model: ir.Model, stage: Stage) -> None:
    """Call the outputs as the stage does, and their sizes that follow from the inputs'."""
    if len(model.graph.outputs) != len(stage.outputs):
        raise ExportError(f"{stage.name}: the graph has {len(model.graph.outputs)} outputs, not {len(stage.outputs)}")
    for value, spec in zip(model.graph.outputs, stage.outputs, strict=True):
        if spec.name in model.graph.initializers:
            raise ExportError(f"{stage.name}: a weight and an output are both called {spec.name}; rename the weight")
        value.name = spec.name
        if value.shape is not None and len(value.shape) == len(spec.shape):
            dims = zip(value.shape, spec.shape, strict=True)
            value.shape = ir.Shape(
                [want if isinstance(want, str) and not isinstance(got, int) else got for got, want in dims]
            )


def _check(model: ir.Model, stage: Stage) -> None:
    for values, specs in ((model.graph.inputs, stage.inputs), (model.graph.outputs, stage.outputs)):
        got = tuple(_spec(value) for value in values)
        if got != specs:
            raise ExportError(f"{stage.name}: the graph has the borders {got}, expected {specs}")
    foreign = {f"{n.domain}::{n.op_type}" for n in model.graph if n.domain not in STANDARD_DOMAINS}
    if foreign or model.functions:
        raise ExportError(f"{stage.name}: operators outside the standard: {sorted(foreign) or 'local functions'}")


def _spec(value: ir.Value) -> TensorSpec:
    shape = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ())
    return TensorSpec(value.name or "", _type(value), shape)


def _type(value: ir.Value) -> str:
    return {"FLOAT": "float32", "INT64": "int64"}.get(value.dtype.name if value.dtype else "", str(value.dtype))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's remarks (optional packages, deprecations of its own) from the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
