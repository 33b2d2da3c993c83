from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from illume_export.families.illume import checkpoint_from_folder
from illume_export.families.illume.stages import stages_from_model
from illume_export.onnx_from_stage import onnx_from_stage
from illume_export.onnx_weights import store_weights
from illume_export.parity import max_abs_error, parity_of, run_from_onnx
from illume_export.stage import Stage, example_of
from illume_runtime.errors import ExportError, QualityError
from illume_runtime.manifest import Flops
from small_model import random_model, small_config

NAMES = ["vision_encoder", "decoder", "head_text", "head_level0", "image_tokenizer", "denoiser", "vae_decoder"]
STAGES = {stage.name: stage for stage in stages_from_model(random_model(small_config()))}


@pytest.fixture(scope="module")
def stages(checkpoint: Path) -> dict[str, Stage]:
    """Of the model as it was loaded: the checkpoint has rounded it to float16."""
    return {stage.name: stage for stage in checkpoint_from_folder(checkpoint).stages}


def test_the_stages_are_those_of_the_bundle_format() -> None:
    assert list(STAGES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_graph_equals_pytorch(bundle: Path, stages: dict[str, Stage], name: str) -> None:
    parity = parity_of(stages[name], bundle / "stages" / f"{name}.onnx", threads=1)
    assert parity.max_abs_error <= (2e-4 if name.startswith("head") else 2e-5)  # float32; guidance multiplies by 7.5
    assert parity.cases >= 2


@pytest.fixture(scope="module")
def other_stages() -> dict[str, Stage]:
    return {stage.name: stage for stage in stages_from_model(random_model(small_config(), seed=1))}


@pytest.mark.parametrize("name", NAMES)
def test_graph_of_other_weights_is_refused(bundle: Path, other_stages: dict[str, Stage], name: str) -> None:
    with pytest.raises(QualityError, match=f"{name}: the graph differs from PyTorch by .*, expected at most"):
        parity_of(other_stages[name], bundle / "stages" / f"{name}.onnx", threads=1)


@pytest.mark.parametrize("name", NAMES)
def test_graph_is_standard_and_bare(bundle: Path, name: str) -> None:
    path = bundle / "stages" / f"{name}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=name != "decoder")  # shape inference of TensorScatter wants static S
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", STAGES[name].opset)}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert b".py" not in path.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_weights_keep_their_names(bundle: Path, name: str) -> None:
    model = onnx.load(bundle / "stages" / f"{name}.onnx")
    tensors = [*STAGES[name].module.named_parameters(), *STAGES[name].module.named_buffers()]
    known = {tensor_name + suffix for tensor_name, _ in tensors for suffix in ("", ".T")}
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) >= 2}
    assert weights <= known
    assert weights


def test_decoder_attends_without_what_backends_ignore(bundle: Path) -> None:
    graph = onnx.load(bundle / "stages" / "decoder.onnx").graph
    attention = [node for node in graph.node if node.op_type == "Attention"]
    assert len(attention) == small_config().language_model.num_layers
    for node in attention:
        assert [attribute.name for attribute in node.attribute] == ["scale"]
        assert len(node.input) == 4  # query, key, value, mask: neither past nor lengths
        assert len(node.output) == 1
    counts = {kind: sum(node.op_type == kind for node in graph.node) for kind in ("TensorScatter", "RotaryEmbedding")}
    assert counts == {"TensorScatter": 4, "RotaryEmbedding": 4}


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "decoder"])
def test_rows_do_not_depend_on_the_batch(bundle: Path, name: str, batch: int) -> None:
    rng = np.random.default_rng(0)
    run = run_from_onnx(bundle / "stages" / f"{name}.onnx", threads=1)
    inputs = {
        port.name: rng.standard_normal([batch if n == "B" else n for n in port.shape]).astype(np.float32)
        for port in STAGES[name].inputs
    }
    (whole,) = run(inputs).values()
    for row in range(batch):
        (single,) = run({key: array[row : row + 1] for key, array in inputs.items()}).values()
        assert max_abs_error(whole[row : row + 1], single) <= 1e-5  # another batch, another order of sums


def test_guidance_of_one_is_the_condition_itself(bundle: Path) -> None:
    run = run_from_onnx(bundle / "stages" / "head_level0.onnx", threads=1)
    hidden = np.random.default_rng(0).standard_normal((3, 48)).astype(np.float32)
    guided = [
        run({"hidden": hidden, "hidden_uncond": hidden, "guidance": np.full(3, g, np.float32)})["logits"]
        for g in (1.0, 7.5)
    ]
    assert np.array_equal(*guided)


def test_the_same_model_gives_the_same_file(tmp_path: Path) -> None:
    stage = STAGES["vae_decoder"]
    again = {s.name: s for s in stages_from_model(random_model(small_config()))}[stage.name]
    files = [tmp_path / "first.onnx", tmp_path / "second.onnx"]
    for path, one in zip(files, (stage, again), strict=True):
        store_weights(*onnx_from_stage(one), path, "float32", beside=False)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_undeclared_borders_are_an_export_error() -> None:
    stage = STAGES["head_text"]
    wrong = Stage(stage.name, stage.module, stage.inputs, stage.inputs[:1], stage.opset, stage.flops, stage.errors, 1.0)
    with pytest.raises(ExportError, match="head_text: the graph has the borders"):
        onnx_from_stage(wrong)


def test_flops_are_counted_by_hand_for_the_heads() -> None:
    assert STAGES["head_text"].flops.count == 2 * 48 * 514
    assert STAGES["head_level0"].flops.count == 2 * 48 * 36


def test_flops_of_the_decoder_are_two_per_weight_and_token() -> None:
    c = small_config().language_model
    matrices = c.hidden_size * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads) + 3 * c.hidden_size * c.mlp_size
    assert STAGES["decoder"].flops == Flops("token", 2 * c.num_layers * matrices)


def test_examples_have_the_declared_shapes() -> None:
    example = example_of(STAGES["decoder"], {"B": 3, "T": 5, "S": 48})
    assert example[0].shape == (3, 5, 48)
    assert example[1].dtype == torch.int64
    assert example[2].shape == (3, 2, 48, 16)
