"""`illume verify` on this family: greedy requests of the runtime and of plain PyTorch, token by token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from illume_export.agreement import SIZES, agreement, pictures_of
from illume_export.families.illume_plus import checkpoint_from_folder, pipeline_from_checkpoint
from illume_runtime.cli.main import main
from illume_runtime.pipeline import Pipeline, TextSampling


def parts(folder: Path) -> list[str]:
    names = (("--mllm", "mllm"), ("--tokenizer", "dualvitok"), ("--decoder", "sdxl_decoder"))
    return [word for option, name in names for word in (option, str(folder / name))]


def test_greedy_requests_are_those_of_pytorch(
    published_bundle: Path, published_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["verify", str(published_bundle), *parts(published_folder), "--requests", "1", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ok"]
    assert len(data["differences"]) == 5 + 10  # tables, stages
    assert [request["kind"] for request in data["requests"]] == ["describe", "draw", "edit"]
    codes = 18 * 18 + 32 * 32
    for request in data["requests"]:
        assert request["total"] == codes or (request["kind"] == "describe" and request["total"] > 0)
        difference = request["first_difference"]
        assert request["agreeing"] == request["total"] if difference is None else difference["tie"]


def test_other_weights_say_other_tokens(published_bundle: Path, published_folder: Path, tmp_path: Path) -> None:
    """What a wrong graph would look like: the comparison can fail."""
    other = Path(shutil.copytree(published_folder, tmp_path / "other"))
    weights = load_file(other / "mllm" / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].flip(0)
    save_file(weights, other / "mllm" / "model.safetensors")
    reference = pipeline_from_checkpoint(checkpoint_from_folder(other))
    (pixels,) = pictures_of(None, 1)
    with Pipeline.load(published_bundle, threads=1) as pipeline:
        sampling = TextSampling(temperature=0.0, max_tokens=8, repetition_penalty=1.0)
        answer = pipeline.describe(Image.fromarray(pixels), "what is it?", sampling=sampling)
    expected = reference.describe(pixels, "what is it?", max_tokens=8)
    assert not agreement("describe", "what is it?", answer.token_ids, expected).ok


def test_pictures_have_several_sizes_where_a_model_takes_any() -> None:
    assert [(one.shape[1], one.shape[0]) for one in pictures_of(None, 4)] == [*SIZES, SIZES[0]]
    assert {one.shape for one in pictures_of(96, 2)} == {(96, 96, 3)}
    assert all(one.dtype == np.uint8 for one in pictures_of(None, 3))
