from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from illume_export.pickled import safetensors_from_folder, tensors_from_pickle
from illume_export.weights import weights_from_folder
from illume_runtime.cli.main import main
from illume_runtime.errors import InvalidCheckpointError, UsageError

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.float16)}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


WRAPPED = {
    "bare": WEIGHTS,
    "model": {"model": WEIGHTS, "step": 3},
    "state_dict": {"state_dict": WEIGHTS},
    "both": {"ema": {"a.weight": torch.zeros(1)}, "model": WEIGHTS},
}


@pytest.mark.parametrize("data", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_are_taken_off(tmp_path: Path, data: object) -> None:
    torch.save(data, tmp_path / "w.bin")
    assert same(tensors_from_pickle(tmp_path / "w.bin"), WEIGHTS)


def test_averaged_weights_are_taken_when_asked_for(tmp_path: Path) -> None:
    torch.save({"ema": WEIGHTS, "model": {}}, tmp_path / "w.bin")
    assert same(tensors_from_pickle(tmp_path / "w.bin", ema=True), WEIGHTS)
    torch.save({"model": WEIGHTS}, tmp_path / "w.bin")
    with pytest.raises(InvalidCheckpointError, match=r"holds no averaged weights \(ema\); leave out --ema"):
        tensors_from_pickle(tmp_path / "w.bin", ema=True)


class Attack:
    """An object whose unpickling would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_nothing_in_a_pickle_is_executed(tmp_path: Path) -> None:
    torch.save({"a": Attack(tmp_path / "touched")}, tmp_path / "w.bin")
    with pytest.raises(InvalidCheckpointError, match=r"holds more than tensors, or is damaged .*; it is not loaded"):
        tensors_from_pickle(tmp_path / "w.bin")
    (tmp_path / "w.bin").write_bytes(pickle.dumps(Attack(tmp_path / "touched")))
    with pytest.raises(InvalidCheckpointError, match="it is not loaded"):
        tensors_from_pickle(tmp_path / "w.bin")
    assert not (tmp_path / "touched").exists()


BAD = {
    "a list": ([1, 2], "got list, expected a dictionary of tensors"),
    "a number inside": ({"a": torch.zeros(1), "epoch": 3}, "epoch is no tensor"),
    "empty": ({}, "it is no tensor"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path: Path, data: object, message: str) -> None:
    torch.save(data, tmp_path / "w.bin")
    with pytest.raises(InvalidCheckpointError, match=message):
        tensors_from_pickle(tmp_path / "w.bin")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "w.bin")
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes()[:-100])
    with pytest.raises(InvalidCheckpointError, match="or is damaged"):
        tensors_from_pickle(tmp_path / "w.bin")


def test_a_folder_keeps_its_shape(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "unet").mkdir(parents=True)
    shards = {
        "pytorch_model-00001-of-00002.bin": {"a": WEIGHTS["a.weight"]},
        "pytorch_model-00002-of-00002.bin": WEIGHTS,
    }
    shards["pytorch_model-00002-of-00002.bin"] = {"b": WEIGHTS["b"], "tied": WEIGHTS["b"]}
    for name, data in shards.items():
        torch.save(data, source / name)
    index = {"weight_map": {key: name for name, data in shards.items() for key in data}}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch.save(WEIGHTS, source / "unet" / "diffusion_pytorch_model.bin")
    (source / "config.json").write_text("{}")
    assert main(["convert", str(source), "-o", str(tmp_path / "new")]) == 0
    weights = weights_from_folder(tmp_path / "new")
    assert not weights.faults
    assert sorted(weights.tensors) == ["a", "b", "tied"]
    assert same(load_file(tmp_path / "new" / "unet" / "diffusion_pytorch_model.safetensors"), WEIGHTS)
    names = sorted(p.relative_to(tmp_path / "new").as_posix() for p in (tmp_path / "new").rglob("*") if p.is_file())
    assert names == [
        "config.json",
        "pytorch_model-00001-of-00002.safetensors",
        "pytorch_model-00002-of-00002.safetensors",
        "pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]


def test_a_bad_file_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    torch.save(WEIGHTS, source / "a.bin")
    torch.save([1], source / "b.bin")
    with pytest.raises(InvalidCheckpointError, match="got list"):
        safetensors_from_folder(source, tmp_path / "new")
    assert list(tmp_path.iterdir()) == [source]


def test_folders_that_cannot_be_converted(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpointError, match="no such folder"):
        safetensors_from_folder(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(InvalidCheckpointError, match=r"holds no \.bin file"):
        safetensors_from_folder(tmp_path, tmp_path / "new")
    torch.save(WEIGHTS, tmp_path / "a.bin")
    with pytest.raises(UsageError, match="exists already"):
        safetensors_from_folder(tmp_path, tmp_path)


def test_the_published_pickle_equals_its_safetensors(reference: Path, tmp_path: Path) -> None:
    tensors = tensors_from_pickle(reference / "dualvitok" / "pytorch_model.bin")
    expected = load_file(reference / "dualvitok" / "pytorch_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert same({name: tensor.float() for name, tensor in tensors.items()}, expected)
