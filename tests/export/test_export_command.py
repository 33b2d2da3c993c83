from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import illume_export.bundle_from_plan as writer
from illume_runtime.bundle import Bundle
from illume_runtime.cli.main import main
from illume_runtime.errors import QualityError

NAMES = ["vision_encoder", "decoder", "head_text", "head_level0", "image_tokenizer", "denoiser", "vae_decoder"]


@pytest.fixture
def standing(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be replaced."""
    return Path(shutil.copytree(bundle, tmp_path / "standing.bundle"))


def changed_copy(checkpoint: Path, folder: Path, tensor: str) -> Path:
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    weights[tensor] = weights[tensor] + torch.tensor(0.25, dtype=torch.float16)
    save_file(weights, folder / "model.safetensors")
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def exported(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["export", *words, "--json"]) == 0
    data: dict[str, object] = json.loads(capsys.readouterr().out)
    return data


def actions(data: dict[str, object]) -> dict[str, str]:
    return {stage["name"]: stage["action"] for stage in data["stages"]}  # type: ignore[attr-defined]


def test_the_bundle_is_complete_and_valid(bundle: Path) -> None:
    Bundle.open(bundle, verify=True)
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert list(manifest["stages"]) == NAMES
    on_disk = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == on_disk - {"bundle.json"}
    assert str(bundle.parent) not in (bundle / "bundle.json").read_text()


def test_tables_are_the_checkpoint_s(bundle: Path, checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    table = np.load(bundle / "tables" / "token_embedding.npy")
    assert table.dtype == np.float32
    assert np.array_equal(table, weights["language_model.model.embed_tokens.weight"].float().numpy())
    colors = np.load(bundle / "tables" / "code_color.npy")
    assert colors.dtype == np.uint8
    assert np.array_equal(colors, weights["image_tokenizer.code_color"].numpy().astype(np.uint8))
    lengths = np.linalg.norm(np.load(bundle / "tables" / "code_embedding.npy"), axis=-1)
    assert np.allclose(lengths, 1.0, atol=1e-6)  # unit vectors in float32


def test_an_unchanged_checkpoint_builds_nothing(
    checkpoint: Path, standing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(standing)
    data = exported(capsys, str(checkpoint), "-o", str(standing))
    assert actions(data) == dict.fromkeys(NAMES, "reused")
    assert snapshot(standing) == before


def test_only_changed_stages_are_built(
    checkpoint: Path, standing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = changed_copy(checkpoint, tmp_path / "changed", "vae.decoder.0.bias")
    data = exported(capsys, str(changed), "-o", str(standing))
    assert actions(data) == dict.fromkeys(NAMES, "reused") | {"vae_decoder": "built"}
    Bundle.open(standing, verify=True)


def test_a_damaged_bundle_is_not_reused(checkpoint: Path, standing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = standing / "stages" / "head_text.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    plan = exported(capsys, str(checkpoint), "-o", str(standing), "--dry-run")
    assert actions(plan) == dict.fromkeys(NAMES, "build")


def test_force_builds_what_is_named(checkpoint: Path, standing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = exported(capsys, str(checkpoint), "-o", str(standing), "--dry-run", "--force")
    assert actions(plan) == dict.fromkeys(NAMES, "build")
    data = exported(capsys, str(checkpoint), "-o", str(standing), "--stages", "head_text")
    assert actions(data) == dict.fromkeys(NAMES, "reused") | {"head_text": "built"}


def test_stages_without_a_bundle_leave_the_others_out(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = exported(capsys, str(checkpoint), "-o", str(tmp_path / "new"), "--dry-run", "--stages", "decoder,head_text")
    assert [name for name, action in actions(plan).items() if action == "build"] == ["decoder", "head_text"]
    assert set(actions(plan).values()) == {"build", "leave out"}


def test_stages_of_another_checkpoint_are_not_mixed(
    checkpoint: Path, standing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = changed_copy(checkpoint, tmp_path / "changed", "vae.decoder.0.bias")
    before = snapshot(standing)
    assert main(["export", str(changed), "-o", str(standing), "--stages", "head_text"]) == 2
    assert "vae_decoder in" in capsys.readouterr().err
    assert snapshot(standing) == before


def test_weights_too_large_for_one_file_stand_beside_it(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_INLINE_BYTES", 0)
    output = tmp_path / "new"
    words = (str(checkpoint), "-o", str(output), "--stages", "head_text")
    exported(capsys, *words)
    assert {path.name for path in (output / "stages").iterdir()} == {"head_text.onnx", "head_text.onnx.data"}
    Bundle.open(output, verify=True)
    exported(capsys, str(checkpoint), "-o", str(output), "--stages", "head_level0")
    assert len(list((output / "stages").iterdir())) == 4
    Bundle.open(output, verify=True)


def test_a_dry_run_writes_nothing(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "new"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES)
    assert "nothing was written" in out
    assert list(tmp_path.iterdir()) == []


def test_sizes_of_the_plan_are_those_of_the_bundle(
    checkpoint: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = exported(capsys, str(checkpoint), "-o", str(tmp_path / "new"), "--dry-run")
    stages = json.loads((bundle / "bundle.json").read_text())["stages"]
    for planned in plan["stages"]:  # type: ignore[attr-defined]
        assert {key: stages[planned["name"]][key] for key in ("params", "weight_bytes", "flops", "opset")} == {
            key: planned[key] for key in ("params", "weight_bytes", "flops", "opset")
        }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--stages", "decoder,nose"], 2, "there is no stage nose; the stages are vision_encoder"),
        (["--stages", ""], 2, "there is no stage"),
        (["-o", "{tmp}/file/new"], 3, "Not a directory"),
        (["-o", "/proc/new"], 3, "/proc/new"),
        (["-o", "{tmp}"], 2, "exists and is no bundle; it is left alone"),
    ],
    ids=["unknown stage", "empty stage", "parent is a file", "not writable", "not a bundle"],
)
def test_wrong_usage(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    (tmp_path / "file").write_text("mine")
    words = [word.format(tmp=tmp_path) for word in words]
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "new"), *words]) == code
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


FAILURES = {
    "tolerance": (QualityError("vae_decoder: the graph differs"), 6),
    "interrupted": (KeyboardInterrupt(), 130),
    "disk full": (OSError(28, "No space left on device", "vae_decoder.onnx"), 3),
    "memory": (MemoryError(), 7),
}


@pytest.mark.parametrize(("failure", "code"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("replaces", [False, True], ids=["new", "replacing"])
def test_a_failure_half_way_leaves_nothing_behind(
    checkpoint: Path,
    standing: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    code: int,
    replaces: bool,
) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr(writer, "parity_of", failing)
    output = standing if replaces else tmp_path / "new.bundle"
    before = snapshot(standing)
    assert main(["export", str(checkpoint), "-o", str(output), "--stages", "head_text"]) == code
    assert "Traceback" not in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["standing.bundle"]
    assert snapshot(standing) == before


def test_a_graph_that_differs_from_pytorch_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from illume_export import language_stages

    monkeypatch.setattr(language_stages, "HEAD_TOLERANCE", -1.0)
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "new"), "--stages", "head_text"]) == 6
    assert "head_text: the graph differs from PyTorch by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
