"""The whole recipe in a few steps of a small model: every phase, kills, training on, and what it leaves behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from illume_export.models import (
    DenoiserConfig,
    IllumeConfig,
    ImageTokenizerConfig,
    LanguageModelConfig,
    VaeConfig,
    VisionEncoderConfig,
)
from illume_runtime.cli.main import main
from illume_training import latent_pool, recipe
from illume_training.config import PHASES

TINY = Path(__file__).resolve().parents[2] / "training/configs/illume-tiny.toml"
SMALL = IllumeConfig(
    name="illume-small",
    level0_segment=(520, 560),
    vision_encoder=VisionEncoderConfig(stem_channels=(4, 6), hidden_size=12, num_layers=1, num_heads=2, mlp_size=16),
    language_model=LanguageModelConfig(
        vocab_size=560, hidden_size=40, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_size=16
    ),
    image_tokenizer=ImageTokenizerConfig(codebook_size=40, code_dim=8, decoder_layers=1),
    vae=VaeConfig(latent_channels=4, channels=(8, 6, 4)),
    denoiser=DenoiserConfig(hidden_size=12, num_layers=1, num_heads=2, mlp_size=16, time_channels=8),
)


class Killed(BaseException):
    """What no `except Exception` stops, as a kill is not stopped."""


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Everything small: the model, the pool of latents, the pictures that colour the codes, the tokenizer's text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe.IllumeConfig, "tiny", staticmethod(lambda: SMALL))
        patch.setattr(latent_pool, "PICTURES", 64)
        patch.setattr(recipe, "train_tokenizer", partial(recipe.train_tokenizer, num_scenes=300))
        original = recipe.vision_batch
        patch.setattr(recipe, "vision_batch", lambda seed, split, count: original(seed, split, min(count, 16)))
        yield


def config_file(folder: Path) -> Path:
    """The shipped configuration with three steps a phase, small batches, a save after every step, and own folders."""
    text = TINY.read_text(encoding="utf-8")
    text = re.sub(r"steps = \d+", "steps = 3\nsave_every_s = 0", text)
    text = re.sub(r"batch_size = \d+", "batch_size = 4", text)
    text = re.sub(r"mixture = .*", "mixture = { draw = 1, ask = 1, edit = 1, reconstruct = 1 }", text)
    text = text.replace("compile = true", "compile = false")
    text = text.replace("build/train", str(folder / "run")).replace("assets/illume-tiny", str(folder / "checkpoint"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    """A folder with the configuration, the run and the checkpoint of an uninterrupted training; read only."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", str(config_file(folder))]) == 0
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint" / "model.safetensors")


def test_the_recipe_leaves_a_checkpoint(trained: Path) -> None:
    assert {path.name for path in (trained / "checkpoint").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip
    assert json.loads((trained / "checkpoint/config.json").read_text()) == json.loads(json.dumps(SMALL.to_json()))
    kept = {f"{phase}.safetensors" for phase in PHASES} | {
        "contents.safetensors",
        "latents.safetensors",
        "tokenizer.json",
    }
    assert {path.name for path in (trained / "run").iterdir()} == kept
    final = weights(trained)
    assert all(torch.isfinite(tensor).all() for tensor in final.values())
    assert final["vae.latent_std"].float().std() > 0
    assert final["image_tokenizer.code_color"].float().std() > 0


def test_a_training_killed_in_every_phase_ends_in_the_same_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, killed = config_file(tmp_path), []
    original = recipe.run_phase

    def mortal(phase, folder, *, device):
        def loss(batch, step):
            if step == 1 + len(killed) % 2 and phase.name not in killed:
                killed.append(phase.name)
                raise Killed
            return phase.loss(batch, step)

        original(replace(phase, loss=loss), folder, device=device)

    paint = recipe.Recipe._paint_codes

    def mortal_paint(self):
        if "paint" not in killed:
            killed.append("paint")
            raise Killed
        paint(self)

    monkeypatch.setattr(recipe, "run_phase", mortal)
    monkeypatch.setattr(recipe.Recipe, "_paint_codes", mortal_paint)
    code = None
    while code is None:
        try:
            code = main(["train", str(config)])
        except Killed:
            assert len(killed) <= len(PHASES) + 1
    assert code == 0
    assert sorted(killed) == sorted([*PHASES, "paint"])
    expected, got = weights(trained), weights(tmp_path)
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_a_finished_training_only_writes_its_checkpoint_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights(trained)
    monkeypatch.setattr(recipe.torch.optim, "AdamW", None)  # nothing may be trained
    assert main(["train", str(trained / "small.toml")]) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(trained).items())


def test_training_on_from_a_checkpoint_changes_what_its_phases_train(trained: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path)
    words = ["train", str(config), "--from", str(trained / "checkpoint"), "--phases", "stage3"]
    assert main(words) == 0
    before, after = weights(trained), weights(tmp_path)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"adapter", "language_model"}
    tokenizers = [folder / "checkpoint" / "tokenizer.json" for folder in (trained, tmp_path)]
    assert tokenizers[0].read_text() == tokenizers[1].read_text()


def test_a_corpus_in_stage_3_teaches_to_assess(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = [520 + i % 40 for i in range(64)]
    lines = [
        {"kind": "assess"},
        {"kind": "correct", "corrected_tokens": grid},
    ]
    turns = [{"question": "how many stars are there?", "answer": "one", "shown_by": [9]}]
    checklist = "object: how many stars are there? one"
    common = {"schema_version": 2, "id": "1-0", "prompt": "a star", "tokens": grid, "turns": turns}
    common["checklist"] = checklist
    folder = tmp_path / "dialogues"
    folder.mkdir()
    file = folder / "dialogues.jsonl"
    file.write_text("".join(json.dumps(common | line) + "\n" for line in lines))
    config = config_file(tmp_path)
    text = config.read_text()
    more = f'reconstruct = 1, checklist = 1, assess = 1, correct = 1 }}\ncorpus = "{folder}"'
    config.write_text(more.join(text.rsplit("reconstruct = 1 }", 1)))
    words = ["train", str(config), "--from", str(trained / "checkpoint"), "--phases", "stage3"]
    assert main(words) == 0
    assert "assess" in json.loads((tmp_path / "checkpoint/generation_config.json").read_text())
    assert "assess" not in json.loads((trained / "checkpoint/generation_config.json").read_text())
    file.write_text(json.dumps(common | lines[0]) + "\n")
    (tmp_path / "run" / "stage3.safetensors").unlink()
    capsys.readouterr()
    assert main(words) == 2
    assert "has no dialogue of the kind correct, of which stage3 mixes in 1" in capsys.readouterr().err


def test_batches_are_made_under_one_choice_of_attention_kernel(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice is the process's and batches are made in a thread of their own: it may not come and go with steps."""
    original, choices = recipe.make_lessons, []

    def make_lessons(*args):
        choices.append(torch.backends.cuda.flash_sdp_enabled())
        lessons = original(*args)
        choices.append(torch.backends.cuda.flash_sdp_enabled())
        return lessons

    monkeypatch.setattr(recipe, "make_lessons", make_lessons)
    words = ["--from", str(trained / "checkpoint"), "--phases", "stage3", "--no-save"]
    assert main(["train", str(config_file(tmp_path)), *words]) == 0
    assert choices == [False] * 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--phases", "stage2"], "phase vision has not finished; run it first (illume train CONFIG --phases vision)"),
        (["--phases", "stage4"], "--phases: got stage4, expected some of vision,"),
        (["--threads", "0"], "--threads: got 0, expected at least 1"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["train", str(config_file(tmp_path)), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("illume train: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("phase", ["vision", "tokenizer"])
def test_a_phase_that_needs_the_probe_starts_from_no_checkpoint(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], phase: str
) -> None:
    words = ["train", str(config_file(tmp_path)), "--from", str(trained / "checkpoint"), "--phases", phase]
    assert main(words) == 2
    assert f"phase {phase} needs the probe of the vision phase" in capsys.readouterr().err


def test_a_missing_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: no such file" in capsys.readouterr().err


def test_the_checkpoint_is_exported_and_evaluated(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, sheet = tmp_path / "small.bundle", tmp_path / "failures.png"
    assert main(["export", str(trained / "checkpoint"), "-o", str(bundle)]) == 0
    capsys.readouterr()
    words = ["--limit", "3", "--held-out", "1", "--batch", "2", "--steps", "2", "--failures", str(sheet), "--json"]
    assert main(["eval", str(bundle), *words, "--require-targets"]) == 6
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    cases = {(f["task"], f["split"]): f["cases"] for f in result["figures"] if f["aspect"] == "all"}
    assert cases == {
        (task, split): number
        for task in ("questions", "draw", "edit", "reconstruct")
        for split, number in (("test", 3), ("held_out", 1))
    }
    assert result["options"] == {"steps": 2}
    assert captured.err.startswith("illume eval: error: below the target: ")
    assert sheet.stat().st_size > 10_000
