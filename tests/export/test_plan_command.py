from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from illume_runtime.bundle import Bundle
from illume_runtime.cli.main import main
from illume_runtime.cli.parser import GIB
from illume_runtime.cli.plan import SYSTEM_BYTES
from illume_runtime.decoder import TokenEngine
from illume_runtime.errors import InvalidBundleError
from illume_runtime.onnx_graph import Graph, Node, Value
from illume_runtime.plan.activations import activation_bytes, size_of
from illume_runtime.plan.needs import Needs, RequestNeeds, StageNeeds
from illume_runtime.plan.weights import WeightBytes
from illume_runtime.stages import Stages
from illume_runtime.trace import Tracer

WEIGHTS = {"decoder": (50, 100, 30, 48), "head_level0": (7, 7, 5, 0), "vq_decoder": (30, 60, 20, 0)}
ACTIVATIONS = {"decoder": 4, "head_level0": 1, "vq_decoder": 40}
DRAW = RequestNeeds("draw draft", (("decoder", "head_level0"), ("vq_decoder",)), cache_bytes=9)


def needs(*, wide: bool, kept: bool = False) -> Needs:
    stages = {
        name: StageNeeds(name, kept, 0, WeightBytes(*WEIGHTS[name], beside=True), {"draw draft": ACTIVATIONS[name]})
        for name in WEIGHTS
    }
    return Needs("n", stages, (DRAW,), wide)


def value(*shape: int | str | None) -> Value:
    return Value(4, shape)


@pytest.mark.parametrize(
    ("second", "expected"),
    [("MatMul", 4 * (20 + 20)), ("Sigmoid", 4 * 20), ("Reshape", 4 * 20)],
    ids=["a new tensor", "in place", "a view"],
)
def test_activations_are_what_lives_at_once(second: str, expected: int) -> None:
    nodes = (Node("MatMul", ("x",), ("a",)), Node(second, ("a",), ("b",)))
    values = {name: value("B", 10) for name in "xab"}
    assert activation_bytes(Graph(nodes, ("b",), values, {}), {"B": 2}) == expected


def test_attention_holds_its_scores_and_group_norm_its_parts() -> None:
    values = {"q": value("B", 3, "T", 8), "k": value("B", 3, "S", 8), "y": value("B", 3, "T", 8), "z": value("B", 24)}
    nodes = (Node("Attention", ("q", "k", "k", ""), ("y",)), Node("GroupNormalization", ("x",), ("z",)))
    sizes = {"B": 2, "T": 5, "S": 7}
    output, scores = 4 * 2 * 3 * 5 * 8, 2 * 4 * 2 * 3 * 5 * 7
    assert activation_bytes(Graph(nodes[:1], ("y",), values, {}), sizes) == output + scores
    assert activation_bytes(Graph(nodes[1:], ("z",), values, {}), sizes) == 3 * 4 * 2 * 24


def test_a_value_of_unknown_size_is_refused_unless_it_is_a_view() -> None:
    nodes = (Node("MatMul", ("x",), ("a",)), Node("Transpose", ("a",), ("b",)))
    values = {"x": value(2, 3), "a": value(2, 5), "b": value(None, 2)}
    assert activation_bytes(Graph(nodes, ("b",), values, {}), {}) == 2 * 4 * 10
    with pytest.raises(InvalidBundleError, match="does not say how large 'a' is"):
        activation_bytes(Graph(nodes, ("b",), {**values, "a": value(None, 5)}, {}), {})


def test_sizes_may_be_expressions() -> None:
    assert size_of("4*Y*X + M", {"Y": 2, "X": 3, "M": 5}) == 29
    with pytest.raises(InvalidBundleError, match="the dimension 'Q', which follows from no input"):
        size_of("Q", {})


def test_peaks_of_both_policies() -> None:
    stored = needs(wide=False)
    assert stored.peak_bytes(DRAW, "all") == 50 + 7 + 9 + 30 + 40
    assert stored.peak_bytes(DRAW, "staged") == 30 + 40


def test_a_cpu_holds_half_precision_as_float32_and_the_largest_weight_twice_while_it_packs() -> None:
    wide = needs(wide=True)
    assert wide.peak_bytes(DRAW, "all") == 100 + 7 + 9 + 60 + 40
    assert wide.peak_bytes(DRAW, "staged") == 100 + 30  # while the decoder loads


def test_activations_of_a_small_stage_are_kept() -> None:
    assert needs(wide=False, kept=True).peak_bytes(DRAW, "all") == 50 + 7 + 9 + 4 + 1 + 30 + 40


@pytest.mark.parametrize(("available", "mapped"), [(1000, set()), (170, {"decoder"})])
def test_matrices_stay_on_disk_where_float32_does_not_fit(available: int, mapped: set[str]) -> None:
    placed = needs(wide=True).within(DRAW, available, "all")
    assert placed.mapped == mapped
    assert placed.weight_bytes("decoder") == (100 - 48 if mapped else 100)


def test_each_phase_has_all_that_is_left_where_only_its_stages_stay() -> None:
    assert needs(wide=True).within(DRAW, 175, "staged").mapped == set()
    assert needs(wide=True).within(DRAW, 175, "all").mapped == set()
    assert needs(wide=True).within(DRAW, 120, "staged").mapped == {"decoder"}


def test_weights_and_cache_are_those_of_a_run(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(bundle), "--memory", "1GiB", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    opened = Bundle.open(bundle)
    weights = {name: stage["weight_bytes"] for name, stage in data["stages"].items()}
    assert weights.keys() == opened.stages.keys()
    for name, spec in opened.stages.items():
        assert 0 <= weights[name] - spec.weight_bytes < 1024  # shapes and indices, which are constants of the graph
    used = {name for name in weights if name != "image_tokenizer"}  # which neither answers nor draws
    assert all(data["stages"][name]["activation_bytes"] > 0 for name in used)
    engine = TokenEngine(Stages(opened, "cpu", 1, Tracer()))
    slots = data["cache_bytes"] // (2 * 2 * 4 * opened.model.num_layers * opened.model.num_kv_heads)
    slots //= opened.model.head_dim
    engine.start([np.zeros((3, opened.model.hidden_size), np.float32)] * 2, slots)
    assert sum(array.nbytes for array in engine._main._buffers) == data["cache_bytes"]
    assert data["fits"]["1 GiB"] == {"all": False, "staged": False}  # the system alone takes more
    assert data["fits"]["Orin Nano 8"]["all"] == (data["peak_bytes"]["all"] + SYSTEM_BYTES <= 8 * GIB)


def test_a_size_that_there_is_not_is_a_usage_error(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(bundle), "--size", "1x1"]) == 2
    assert "size: got '1x1', expected one of " in capsys.readouterr().err


def test_a_size_without_a_unit_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "illume-plus-3b", "--memory", "8"]) == 2
    assert "expected a size such as 8GiB" in capsys.readouterr().err
