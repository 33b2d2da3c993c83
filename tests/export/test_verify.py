from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from illume_export import cli_verify
from illume_export.agreement import PROMPTS, TIE, Difference, agreement, texts_of
from illume_export.greedy import GreedyTokens
from illume_runtime.cli.main import main


def test_a_bundle_agrees_with_its_checkpoint(
    bundle: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["verify", str(bundle), str(checkpoint), "--requests", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ok"]
    assert len(data["differences"]) == 7 + 3
    assert [request["kind"] for request in data["requests"]] == ["describe", "draw", "edit"] * 2
    for request in data["requests"]:
        difference = request["first_difference"]
        assert request["agreeing"] == request["total"] > 0 if difference is None else difference["tie"]


def test_a_difference_is_told_with_the_margin_that_it_had() -> None:
    found = agreement("draw", "a red circle", (1, 9), GreedyTokens((1, 2, 3), (0.5, 0.25, 0.5)))
    assert found.difference == Difference(1, 9, 2, 0.25)
    text = cli_verify.text_of([], [found, agreement("edit", "add a star", (1,), GreedyTokens((1,), (0.5,)))])
    assert "draw 'a red circle': DIFFERS at token 1 of 3: 9, PyTorch 2, which was ahead by 0.25 in logits" in text
    assert [line.split() for line in text.splitlines() if line.startswith(("draw  ", "edit  "))] == [
        ["draw", "0/1", "1/3", "0", "1"],
        ["edit", "1/1", "1/1", "0", "0"],
    ]


def test_prompts_differ_from_one_another() -> None:
    assert len(set(texts_of(PROMPTS, 50))) == 50


def test_another_checkpoint_is_told_apart_with_exit_code_6(
    bundle: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["image_tokenizer.code_color"][3, 1] += 16
    weights["denoiser.out.bias"] += torch.tensor(0.25, dtype=torch.float16)
    save_file(weights, other / "model.safetensors")
    capsys.readouterr()
    assert main(["verify", str(bundle), str(other), "--requests", "0"]) == 6
    captured = capsys.readouterr()
    assert captured.out.count("DIFFERS") == 2
    assert "differs from" in captured.err
    assert "in: table code_color; denoiser" in captured.err


def test_a_damaged_bundle_is_refused_with_exit_code_4(bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    with (damaged / "stages" / "head_text.onnx").open("ab") as file:
        file.write(b"\0")
    assert main(["verify", str(damaged), str(checkpoint)]) == 4


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["{b}", "{c}", "--requests", "-1"], 2, "--requests: expected 0 or more, got -1"),
        (["{b}", "{c}", "--requests", "x"], 2, "argument --requests: invalid int value: 'x'"),
        (["{b}"], 2, "CHECKPOINT is missing; name the checkpoint to compare with"),
        (["{c}", "{b}"], 4, "has no bundle.json, so it is no bundle"),
        (["{b}", "{b}"], 4, "config.json: no such file"),
        (["/nowhere", "{c}"], 2, "/nowhere: no such folder; expected a bundle"),
        (["{b}", "/nowhere"], 4, "/nowhere/config.json: no such file"),
    ],
)
def test_wrong_words_are_one_line(
    bundle: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    capsys.readouterr()
    assert main(["verify", *(word.format(b=bundle, c=checkpoint) for word in words)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("illume verify: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


CLEAR = 10 * TIE
AGREEMENTS = {
    "all": ((1, 2, 3), (CLEAR,) * 3, 3, False, True),
    "all, end included": ((1, 2, 3), (CLEAR,) * 4, 3, False, True),
    "another token": ((1, 9, 3), (CLEAR,) * 3, 1, False, False),
    "another token of equal weight": ((1, 9, 4), (CLEAR, TIE / 2, CLEAR), 1, True, True),
    "too short": ((1, 2), (CLEAR,) * 3, 2, False, False),
    "too long": ((1, 2, 3, 4), (CLEAR,) * 3, 3, False, False),
    "too long, end as likely": ((1, 2, 3, 4), (CLEAR, CLEAR, CLEAR, TIE / 2), 3, True, True),
}


@pytest.mark.parametrize(("ids", "margins", "agreeing", "tie", "ok"), AGREEMENTS.values(), ids=AGREEMENTS)
def test_tokens_agree_up_to_ties(
    ids: tuple[int, ...], margins: tuple[float, ...], agreeing: int, tie: bool, ok: bool
) -> None:
    found = agreement("draw", "a star", ids, GreedyTokens((1, 2, 3), margins))
    assert (found.agreeing, found.difference is not None and found.difference.tie, found.ok) == (agreeing, tie, ok)
