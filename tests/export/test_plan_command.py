from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from illume_export.activations import activation_bytes, size_of
from illume_export.cli_plan import GIB, SYSTEM_BYTES
from illume_export.needs import Needs, StageNeeds
from illume_runtime.bundle import Bundle
from illume_runtime.cli.main import main
from illume_runtime.decoder import TokenEngine
from illume_runtime.errors import InvalidBundleError
from illume_runtime.stages import Stages
from illume_runtime.trace import Tracer

NEEDS = Needs("n", (StageNeeds("decoder", 50, 4), StageNeeds("head_text", 7, 1), StageNeeds("vae_decoder", 30, 40)), 9)


def value(name: str, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def node(op_type: str, inputs: list[ir.Value], *shape: int | str) -> ir.Node:
    made = ir.node(op_type, inputs)
    made.outputs[0].shape, made.outputs[0].type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
    return made


@pytest.mark.parametrize(
    ("second", "expected"),
    [("MatMul", 4 * (20 + 20)), ("Sigmoid", 4 * 20), ("Reshape", 4 * 20)],
    ids=["a new tensor", "in place", "a view"],
)
def test_activations_are_what_lives_at_once(second: str, expected: int) -> None:
    x = value("x", "B", 10)
    a = node("MatMul", [x], "B", 10)
    b = node(second, [a.outputs[0]], "B", 10)
    graph = ir.Graph([x], [b.outputs[0]], nodes=[a, b])
    assert activation_bytes(graph, {"B": 2}) == expected


def test_sizes_may_be_expressions() -> None:
    assert size_of("4*Y*X + M", {"Y": 2, "X": 3, "M": 5}) == 29
    with pytest.raises(InvalidBundleError, match="the dimension 'Q', which follows from no input"):
        size_of("Q", {})


def test_peaks_of_both_policies() -> None:
    assert NEEDS.peak_bytes("all") == 50 + 7 + 30 + 9 + 40
    assert NEEDS.peak_bytes("staged") == max(50 + 7 + 9 + 4, 30 + 40)


def test_weights_and_cache_are_those_of_a_run(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(bundle), "--memory", "1GiB", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    opened = Bundle.open(bundle)
    weights = {name: stage["weight_bytes"] for name, stage in data["stages"].items()}
    assert weights == {name: spec.weight_bytes for name, spec in opened.stages.items()}
    assert all(stage["activation_bytes"] > 0 for stage in data["stages"].values())
    engine = TokenEngine(Stages(opened, "cpu", 1, Tracer()))
    slots = data["cache_bytes"] // (2 * 2 * 4 * opened.model.num_layers * opened.model.num_kv_heads)
    slots //= opened.model.head_dim
    engine.start([np.zeros((3, opened.model.hidden_size), np.float32)] * 2, slots)
    assert sum(array.nbytes for array in engine._main._buffers) == data["cache_bytes"]
    assert data["fits"]["1 GiB"] == {"all": False, "staged": False}  # the system alone takes more
    assert data["fits"]["Orin Nano 8"]["all"] == (data["peak_bytes"]["all"] + SYSTEM_BYTES <= 8 * GIB)


def test_a_size_without_a_unit_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "illume-plus-3b", "--memory", "8"]) == 2
    assert "expected a size such as 8GiB" in capsys.readouterr().err
