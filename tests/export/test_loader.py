from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from illume_export.families import family_from_folder
from illume_export.families.illume import illume_from_checkpoint
from illume_export.safetensors_header import header_of
from illume_runtime.cli.main import main
from illume_runtime.errors import InvalidCheckpointError

Weights = dict[str, torch.Tensor]
BIAS = "denoiser.out.bias"


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def edit_weights(folder: Path, edit: Callable[[Weights], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def edit_json(path: Path, edit: Callable[[dict[str, object]], object]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def reversed_header(folder: Path) -> None:
    """Say one tensor twice in the header, as a careless merge of two files would."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].decode().rstrip()
    entry = json.dumps(json.loads(header)[BIAS])
    header = header[:-1] + f', "{BIAS}": {entry}}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + data[8 + length :])


BAD_WEIGHTS = {
    "missing": (lambda w: w.pop(BIAS), r"1 tensors .* missing denoiser\.out\.bias \[24\]"),
    "left over": (lambda w: w.update(extra=torch.zeros(3, dtype=torch.float16)), r"unexpected extra \[3\]"),
    "shape": (
        lambda w: w.update({BIAS: torch.zeros(5, dtype=torch.float16)}),
        r"denoiser\.out\.bias has shape \[5\], expected \[24\]",
    ),
    "type": (
        lambda w: w.update({BIAS: torch.zeros(24, dtype=torch.int64)}),
        r"denoiser\.out\.bias has type I64, expected one of F16, BF16, F32",
    ),
    "double precision": (lambda w: w.update({BIAS: torch.zeros(24).double()}), r"has type F64, expected"),
    "NaN": (lambda w: w[BIAS].fill_(float("nan")), r"NaN or infinity in denoiser\.out\.bias"),
    "infinity": (lambda w: w[BIAS].fill_(float("inf")), r"NaN or infinity in denoiser\.out\.bias"),
    "several at once": (
        lambda w: (w.pop(BIAS), w.update(extra=torch.zeros(1)), w.pop("adapter.mlp.up.bias")),
        r"3 tensors .*missing adapter\.mlp\.up\.bias .*missing denoiser\.out\.bias .*unexpected extra",
    ),
}


@pytest.mark.parametrize(("edit", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_named(folder: Path, edit: Callable[[Weights], object], message: str) -> None:
    edit_weights(folder, edit)
    with pytest.raises(InvalidCheckpointError, match=message):
        illume_from_checkpoint(folder)


def test_a_duplicated_tensor_is_named(folder: Path) -> None:
    reversed_header(folder)
    with pytest.raises(InvalidCheckpointError, match=r"duplicated denoiser\.out\.bias"):
        illume_from_checkpoint(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_stored_types_are_loaded_as_float32(folder: Path, dtype: torch.dtype) -> None:
    edit_weights(folder, lambda w: w.update({name: tensor.to(dtype) for name, tensor in w.items()}))
    assert {tensor.dtype for tensor in illume_from_checkpoint(folder).state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    "keep", [0, 5, 8, 1000, -1], ids=["empty", "half a length", "length only", "header", "one byte"]
)
def test_truncated_weights_are_refused(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidCheckpointError, match=r"model\.safetensors: truncated.*copy it again"):
        illume_from_checkpoint(folder)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    header=st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.one_of(st.none(), st.floats(), st.integers(), st.sampled_from(["F16", "shape", "dtype", "12"])),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["a", "shape", "dtype", "data_offsets"]), inner, max_size=3)
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_header_is_read_or_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "any.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with contextlib.suppress(InvalidCheckpointError):
        header_of(path)


def test_a_malformed_header_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"[1, ")
    with pytest.raises(InvalidCheckpointError, match="header is malformed"):
        illume_from_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidCheckpointError, match=f"{name}: no such file"):
        family_from_folder(folder).checkpoint_from_folder(folder)


BAD_CONFIGS = {
    "unknown key": (lambda c: c.update(colour=1), r"config: unknown keys \['colour'\]"),
    "unknown inner key": (lambda c: c["vae"].update(width=1), r"config\.vae: unknown keys \['width'\]"),
    "missing key": (lambda c: c.pop("vae"), r"missing keys \['vae'\]"),
    "wrong type": (lambda c: c.update(grid_size="2"), r"config\.grid_size: got '2', expected int"),
    "segments": (lambda c: c.update(level0_segment=[520, 600]), "holds 80 ids, expected codebook_size = 36"),
    "negative": (lambda c: c["vision_encoder"].update(hidden_size=-4), r"VisionEncoderConfig\.hidden_size is -4, exp"),
    "absurd": (lambda c: c["language_model"].update(num_layers=10**9), "num_layers is 1000000000, expected 1 to 1000"),
    "no such sizes": (lambda c: c["language_model"].update(hidden_size=2**20, vocab_size=2**20), "has shape"),
    "picture and grid": (lambda c: c.update(image_size=65), "image_size is not 32 times grid_size"),
    "heads": (lambda c: c["language_model"].update(num_heads=3), "num_heads is no multiple of num_kv_heads"),
    "control": (lambda c: c["controls"].update(end=513), "two controls have the same id"),
    "family": (lambda c: c.update(model_type="llava"), "model_type is 'llava', expected one of illume"),
}


@pytest.mark.parametrize(("edit", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_bad_configuration_is_refused(
    folder: Path, edit: Callable[[dict[str, object]], object], message: str
) -> None:
    edit_json(folder / "config.json", edit)
    with pytest.raises(InvalidCheckpointError, match=message):
        family_from_folder(folder).checkpoint_from_folder(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"], ids=["empty", "cut", "list", "not UTF-8"])
def test_a_configuration_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InvalidCheckpointError, match=r"config\.json: (no JSON|got list)"):
        family_from_folder(folder)


def test_sampling_defaults_that_are_no_numbers_are_refused(folder: Path) -> None:
    edit_json(folder / "generation_config.json", lambda g: g.update(draw={"guidance": "much"}))
    with pytest.raises(InvalidCheckpointError, match=r"generation_config\.json: .*draw\.guidance: got"):
        family_from_folder(folder).checkpoint_from_folder(folder)


def test_a_text_token_that_is_a_control_token_is_refused(folder: Path) -> None:
    edit_json(folder / "tokenizer.json", lambda t: t["model"]["vocab"].update({"x" * 9: 513}))  # type: ignore[index]
    with pytest.raises(InvalidCheckpointError, match=r"'xxxxxxxxx'; control tokens belong into added_tokens"):
        family_from_folder(folder).checkpoint_from_folder(folder)


def test_a_damaged_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidCheckpointError, match=r"tokenizer\.json: no tokenizer"):
        family_from_folder(folder).checkpoint_from_folder(folder)


DAMAGES = {
    "no folder": (shutil.rmtree, "config.json: no such file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: no such file"),
    "truncated": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors: truncated"),
    "missing tensor": (lambda f: edit_weights(f, lambda w: w.pop(BIAS)), f"missing {BIAS}"),
    "wrong shape": (lambda f: edit_weights(f, lambda w: w.update({BIAS: torch.zeros(5)})), "has shape [5]"),
    "wrong type": (lambda f: edit_weights(f, lambda w: w.update({BIAS: torch.zeros(24).long()})), "has type I64"),
    "unknown key": (lambda f: edit_json(f / "config.json", lambda c: c.update(colour=1)), "unknown keys ['colour']"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json: no JSON"),
    "a file": (lambda f: (shutil.rmtree(f), f.write_text("mine")), "config.json"),
}


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["export", "dry run"])
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_the_command_says_it_in_one_line_with_exit_code_4(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    message: str,
    options: list[str],
) -> None:
    damage(folder)
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(folder), "-o", str(tmp_path / "out"), *options]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("illume export: error: ")
    assert message in captured.err
    assert sorted(tmp_path.rglob("*")) == before
