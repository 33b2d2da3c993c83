from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
import torch
from plus_checkpoint import mllm_weights, random_plus, small_config, write_plus
from safetensors.torch import load_file, save_file

from illume_export.families.illume_plus import Folders, config_from_folders, folders_in, plus_from_folders
from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.naming import bare_name
from illume_export.families.illume_plus.specification import specification_from_config
from illume_export.weights import weights_from_folder
from illume_runtime.cli.main import main
from illume_runtime.errors import InvalidCheckpointError

Weights = dict[str, torch.Tensor]
MLLM = "mllm/model.safetensors"
TOKENIZER = "dualvitok/pytorch_model.safetensors"
UNET = "sdxl_decoder/unet/diffusion_pytorch_model.safetensors"
VAE = "sdxl_decoder/vae/diffusion_pytorch_model.safetensors"
TOWER = "model.vision_tower.semantic_encoder.merger.ln_q.bias"


@pytest.fixture
def folder(plus_folder: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to damage."""
    return Path(shutil.copytree(plus_folder, tmp_path / "copy"))


def edit_weights(path: Path, edit: Callable[[Weights], object]) -> None:
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


def edit_json(path: Path, **change: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def renamed(weights: Weights, rename: Callable[[str], str]) -> None:
    for name in list(weights):
        weights[rename(name)] = weights.pop(name)


def states_equal(a: IllumePlus, b: IllumePlus) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def test_what_was_saved_is_loaded(plus_folder: Path, plus: IllumePlus) -> None:
    loaded = plus_from_folders(folders_in(plus_folder))
    assert states_equal(loaded, plus)
    assert not loaded.training
    assert loaded.config.vocabulary.controls["start_of_image"] == 259
    assert loaded.config.vocabulary.tags["width", 1024] + 1 == loaded.config.vocabulary.level0[0]
    assert torch.equal(loaded.mllm.language_model.cos, plus.mllm.language_model.cos)


def test_the_decoder_may_be_left_out(plus_folder: Path) -> None:
    loaded = plus_from_folders(Folders(plus_folder / "mllm", plus_folder / "dualvitok"))
    assert loaded.unet is None
    assert loaded.vae is None


def test_the_configuration_reads_no_weights(plus_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("illume_export.weights.Weights.read", read)
    assert config_from_folders(folders_in(plus_folder)).language_model.hidden_size == 48


PREFIXES = {
    "data parallel": lambda n: f"module.{n}",
    "adapters": lambda n: f"base_model.model.{n}",
    "both, doubled": lambda n: f"module.base_model.model.model.{n}" if n.startswith("model.") else f"base_model.{n}",
    "processor format": lambda n: (
        n.removeprefix("model.") if ".vision_tower." in n or ".mm_projector." in n else f"language_model.{n}"
    ),
    "nested tower": lambda n: n.replace("model.vision_tower.", "vision_tower.vision_tower."),
}


@pytest.mark.parametrize("rename", PREFIXES.values(), ids=PREFIXES)
def test_prefixes_of_wrappers_are_seen_through(folder: Path, plus: IllumePlus, rename: Callable[[str], str]) -> None:
    edit_weights(folder / MLLM, lambda w: renamed(w, rename))
    assert states_equal(plus_from_folders(folders_in(folder)), plus)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("module.model.norm.weight", "model.norm.weight"),
        ("base_model.model.model.model.norm.weight", "model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("semantic_encoder.model.blocks.0", "semantic_encoder.model.blocks.0"),
    ],
)
def test_bare_names(name: str, bare: str) -> None:
    assert bare_name(name) == bare


BAD_WEIGHTS = {
    "missing": (MLLM, lambda w: w.pop("model.norm.weight"), r"1 faults: .*mllm: missing model\.norm\.weight \[48\]"),
    "tower missing": (
        MLLM,
        lambda w: [w.pop(name) for name in list(w) if "vision_tower" in name],
        r"missing vision_tower\.semantic_encoder\.patch_embed\.proj\.weight \[32, 3, 2, 14, 14\]",
    ),
    "left over": (MLLM, lambda w: w.update({"model.extra": torch.zeros(3)}), r"unexpected model\.extra \[3\]"),
    "shape": (MLLM, lambda w: w.update({TOWER: torch.zeros(5)}), r"ln_q\.bias has shape \[5\], expected \[32\]"),
    "type": (
        MLLM,
        lambda w: w.update({TOWER: torch.zeros(32).long()}),
        r"ln_q\.bias has type I64, expected one of F16",
    ),
    "duplicated": (
        MLLM,
        lambda w: w.update({f"module.{TOWER}": w[TOWER].clone()}),
        r"duplicated vision_tower\.semantic_encoder\.merger\.ln_q\.bias: model\..* and module\.",
    ),
    "NaN": (VAE, lambda w: w["decoder.conv_in.bias"].fill_(float("nan")), r"vae: NaN or infinity in decoder\.conv_in"),
    "codebook missing": (
        TOKENIZER,
        lambda w: w.pop("pixel_quantizer.frozen_codebook"),
        r"missing pixel_quantizer\.frozen_codebook \[40, 12\]",
    ),
    "codebook of zeros": (
        TOKENIZER,
        lambda w: w["semantic_quantizer.frozen_codebook"].zero_(),
        "semantic_quantizer: all codes are equal",
    ),
    "transform of zeros": (
        TOKENIZER,
        lambda w: w["pixel_quantizer.code_transform.weight"].zero_(),
        "pixel_quantizer: all codes are equal",
    ),
    "unet": (UNET, lambda w: w.pop("conv_in.bias"), r"unet: missing conv_in\.bias \[8\]"),
}


@pytest.mark.parametrize(("file", "edit", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_named(folder: Path, file: str, edit: Callable[[Weights], object], message: str) -> None:
    edit_weights(folder / file, edit)
    with pytest.raises(InvalidCheckpointError, match=message):
        plus_from_folders(folders_in(folder))


def test_all_faults_of_all_parts_stand_in_one_error(folder: Path) -> None:
    edit_weights(folder / MLLM, lambda w: (w.pop("model.norm.weight"), w.update(extra=torch.zeros(1))))
    edit_weights(folder / UNET, lambda w: w.update({"conv_out.bias": torch.zeros(7)}))
    edit_weights(folder / VAE, lambda w: w.pop("decoder.conv_in.bias"))
    pattern = (
        r"4 faults: .*model\.norm\.weight.*unexpected extra.*conv_out\.bias has shape \[7\].*decoder\.conv_in\.bias"
    )
    with pytest.raises(InvalidCheckpointError, match=pattern):
        plus_from_folders(folders_in(folder))


def test_the_tower_never_comes_from_the_tokenizer(folder: Path, plus: IllumePlus) -> None:
    edit_weights(folder / TOKENIZER, lambda w: w["semantic_encoder.model.merger.ln_q.bias"].add_(1))
    loaded = plus_from_folders(folders_in(folder))
    ours = loaded.mllm.vision_tower.semantic_encoder.merger.ln_q.bias
    assert torch.equal(ours, plus.mllm.vision_tower.semantic_encoder.merger.ln_q.bias)
    assert not torch.equal(ours, loaded.tokenizer.semantic_encoder.model.merger.ln_q.bias)


HEADS = {
    "tied, none stored": (True, None, True),
    "tied, an equal one stored": (True, 0.0, True),
    "tied, another one stored": (True, 1e-3, False),
    "untied, an equal one stored": (False, 0.0, True),
    "untied, another one stored": (False, 1e-3, False),
}


@pytest.mark.parametrize(("says_tied", "difference", "shared"), HEADS.values(), ids=HEADS)
def test_a_head_is_shared_only_if_it_equals_the_embedding(
    folder: Path, says_tied: bool, difference: float | None, shared: bool
) -> None:
    edit_json(folder / "mllm" / "config.json", tie_word_embeddings=says_tied)
    if difference is not None:
        edit_weights(
            folder / MLLM, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone() + difference})
        )
    model = plus_from_folders(folders_in(folder)).mllm.language_model
    assert model.config.tie_word_embeddings is shared
    assert torch.equal(model.head_weight, model.model.embed_tokens.weight) is shared


def test_an_untied_head_that_is_missing_is_named(folder: Path) -> None:
    edit_json(folder / "mllm" / "config.json", tie_word_embeddings=False)
    with pytest.raises(InvalidCheckpointError, match=r"missing lm_head\.weight"):
        plus_from_folders(folders_in(folder))


ROLES = {
    "tokenizer for the language model": (TOKENIZER, MLLM, "holds the weights of tokenizer, expected those of mllm"),
    "language model for the tokenizer": (MLLM, TOKENIZER, "holds the weights of mllm, expected those of tokenizer"),
    "unet for the vae": (UNET, VAE, "holds the weights of unet, expected those of vae"),
}


@pytest.mark.parametrize(("source", "target", "message"), ROLES.values(), ids=ROLES)
def test_a_part_in_the_place_of_another_is_recognized(folder: Path, source: str, target: str, message: str) -> None:
    shutil.copyfile(folder / source, folder / target)
    with pytest.raises(InvalidCheckpointError, match=message):
        plus_from_folders(folders_in(folder))


ORDERS = [order for order in permutations(("mllm", "dualvitok", "sdxl_decoder")) if order[0] != "mllm"]


@pytest.mark.parametrize("order", [*ORDERS, ("mllm", "sdxl_decoder", "dualvitok")], ids="-".join)
def test_folders_in_the_wrong_order(plus_folder: Path, order: tuple[str, ...]) -> None:
    mllm, tokenizer, decoder = (plus_folder / name for name in order)
    with pytest.raises(InvalidCheckpointError, match="check which folder stands for --mllm, --tokenizer") as caught:
        config_from_folders(Folders(mllm, tokenizer, decoder))
    names = {"mllm": "language model", "dualvitok": "vision tokenizer", "sdxl_decoder": "diffusion decoder"}
    for given, expected in zip(order, names, strict=True):
        told = re.search(f"{given} is the {names[given]} .*?, expected the {names[expected]}", str(caught.value))
        assert (told is not None) is (given != expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "a folder of all parts"), ("sdxl_decoder/unet", "only a part of the diffusion decoder")],
    ids=["all parts", "a part of a part"],
)
def test_a_folder_above_or_below_a_part_is_recognized(plus_folder: Path, name: str, message: str) -> None:
    with pytest.raises(InvalidCheckpointError, match=f"is {message}, expected the language model"):
        config_from_folders(Folders(plus_folder / name, plus_folder / "dualvitok"))


def test_another_kind_of_language_model_is_named(folder: Path) -> None:
    (folder / "dualvitok" / "config.json").write_text("{}")
    with pytest.raises(InvalidCheckpointError, match="model_type is None, expected 'illume_qwen2'"):
        config_from_folders(Folders(folder / "dualvitok", folder / "dualvitok"))


def test_files_of_models_of_two_sizes_are_told(folder: Path, plus: IllumePlus, tmp_path: Path) -> None:
    wide = dataclasses.replace(plus.config.language_model, hidden_size=56)
    other = mllm_weights(random_plus(dataclasses.replace(plus.config, language_model=wide)))
    shard(folder, halves)
    path = folder / "mllm" / "model-00002-of-00002.safetensors"
    save_file({name: other[name] for name in load_file(path)}, path)
    message = (
        r"holds layers of the widths \[48, 56\], config.json says 48: files of models of different sizes are mixed"
    )
    with pytest.raises(InvalidCheckpointError, match=message):
        config_from_folders(folders_in(folder))
    edit_json(folder / "mllm" / "config.json", hidden_size=96)
    with pytest.raises(InvalidCheckpointError, match=r"the widths \[48, 56\], config.json says 96"):
        config_from_folders(folders_in(folder))


BAD_JSON = {
    "another model": ("mllm/config.json", {"model_type": "llava"}, "model_type is 'llava', expected 'illume_qwen2'"),
    "no sizes": ("mllm/config.json", {"hidden_size": None}, "no sizes of a Qwen2 decoder"),
    "other token ids": ("mllm/config.json", {"special_tokens_ids": [1, 2]}, r"special_tokens_ids \[1, 2\]"),
    "a smaller vocabulary": ("mllm/config.json", {"vocab_size": 300}, "vocab_size is 300, the codes need"),
    "no tokenizer": ("dualvitok/config.json", {"vq_model": {}}, "no configuration of a DualViTok"),
    "another scheduler": (
        "sdxl_decoder/scheduler/scheduler_config.json",
        {"_class_name": "PNDMScheduler"},
        "the scheduler is 'PNDMScheduler', expected one of EulerDiscreteScheduler, DDIMScheduler",
    ),
    "velocity prediction": (
        "sdxl_decoder/scheduler/scheduler_config.json",
        {"prediction_type": "v_prediction"},
        "prediction_type is 'v_prediction', expected 'epsilon'",
    ),
    "clipped predictions": (
        "sdxl_decoder/scheduler/scheduler_config.json",
        {"_class_name": "DDIMScheduler"},
        "clip_sample is True, expected False",
    ),
    "another order": (
        "sdxl_decoder/scheduler/scheduler_config.json",
        {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "final_sigmas_type": "sigma_min"},
        "solver_order is 3, expected 2; .*final_sigmas_type is 'sigma_min', expected 'zero'",
    ),
    "an end that no scheduler has": (
        "sdxl_decoder/scheduler/scheduler_config.json",
        {"final_sigmas_type": "last"},
        "or the scheduler, are malformed .*'last'",
    ),
    "a unet without codes": ("sdxl_decoder/unet/config.json", {"in_channels": 4}, "unet takes 4 channels, expected 20"),
}


@pytest.mark.parametrize(("file", "change", "message"), BAD_JSON.values(), ids=BAD_JSON)
def test_bad_configurations_are_named(folder: Path, file: str, change: dict[str, object], message: str) -> None:
    edit_json(folder / file, **change)
    with pytest.raises(InvalidCheckpointError, match=message):
        plus_from_folders(folders_in(folder))


SCHEDULERS = {
    "euler": ({}, "euler", "zero"),
    "euler, set_alpha_to_one says nothing to it": ({"set_alpha_to_one": False}, "euler", "zero"),
    "euler to the first level": ({"final_sigmas_type": "sigma_min"}, "euler", "first"),
    "ddim": ({"_class_name": "DDIMScheduler", "clip_sample": False}, "ddim", "zero"),
    "ddim to the first level": (
        {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False},
        "ddim",
        "first",
    ),
    "dpm-solver": ({"_class_name": "DPMSolverMultistepScheduler"}, "dpmpp_2m", "zero"),
}


@pytest.mark.parametrize(("change", "solver", "final_sigma"), SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_are_read(folder: Path, change: dict[str, object], solver: str, final_sigma: str) -> None:
    edit_json(folder / "sdxl_decoder" / "scheduler" / "scheduler_config.json", **change)
    config = config_from_folders(folders_in(folder))
    assert config.diffusion is not None
    assert (config.diffusion.noise.solver, config.diffusion.noise.final_sigma) == (solver, final_sigma)
    scheduler = specification_from_config(config)["scheduler"]
    assert (scheduler["solver"], scheduler["final_sigma"]) == (solver, final_sigma)


def test_codes_that_the_tokenizer_json_lacks(folder: Path) -> None:
    path = folder / "mllm" / "tokenizer.json"
    data = json.loads(path.read_text())
    data["added_tokens"] = data["added_tokens"][:-1]
    path.write_text(json.dumps(data))
    with pytest.raises(InvalidCheckpointError, match="has 39 codes of level 1, the tokenizer's codebook has 40"):
        plus_from_folders(folders_in(folder))


def shard(folder: Path, names: Callable[[list[str]], list[list[str]]], index_of: Callable[[dict], dict] = dict) -> None:
    """Split the language model's file in the way of its trainer."""
    weights = load_file(folder / MLLM)
    (folder / MLLM).unlink()
    index = {}
    for i, part in enumerate(names(sorted(weights))):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / "mllm" / file)
        index.update(dict.fromkeys(part, file))
    data = {"metadata": {}, "weight_map": index_of(index)}
    (folder / "mllm" / "model.safetensors.index.json").write_text(json.dumps(data))


def halves(names: list[str]) -> list[list[str]]:
    return [names[::2], names[1::2]]


def test_shards_are_one_checkpoint(folder: Path, plus: IllumePlus) -> None:
    shard(folder, halves)
    assert states_equal(plus_from_folders(folders_in(folder)), plus)


BAD_SHARDS = {
    "a tensor that the index lacks": (
        lambda index: {k: v for k, v in index.items() if k != TOWER},
        r"ln_q\.bias is not in model\.safetensors\.index\.json",
    ),
    "a tensor that no shard has": (lambda index: {**index, "ghost": index[TOWER]}, "ghost is not in model-0000"),
    "a shard elsewhere": (
        lambda index: {**index, TOWER: "../x.safetensors"},
        r"'\.\./x\.safetensors', expected a file",
    ),
    "no names": (lambda index: {"a": 3}, "has no weight_map of names to files"),
}


@pytest.mark.parametrize(("index_of", "message"), BAD_SHARDS.values(), ids=BAD_SHARDS)
def test_bad_indices_are_named(folder: Path, index_of: Callable[[dict], dict], message: str) -> None:
    shard(folder, halves, index_of)
    with pytest.raises(InvalidCheckpointError, match=message):
        plus_from_folders(folders_in(folder))


def test_a_tensor_in_two_shards_is_named(folder: Path) -> None:
    shard(folder, lambda names: [names[::2], [*names[1::2], names[0]]])
    with pytest.raises(InvalidCheckpointError, match=r"duplicated .*: in model-00001.* and model-00002"):
        plus_from_folders(folders_in(folder))


def test_a_truncated_shard_is_named(folder: Path) -> None:
    shard(folder, halves)
    path = folder / "mllm" / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InvalidCheckpointError, match=r"model-00002-of-00002\.safetensors: truncated or damaged"):
        plus_from_folders(folders_in(folder))


def test_pickled_weights_ask_for_a_conversion(folder: Path) -> None:
    (folder / TOKENIZER).rename(folder / "dualvitok" / "pytorch_model.bin")
    with pytest.raises(InvalidCheckpointError, match=r"holds pickled weights \(\.bin\) only; .*illume convert"):
        weights_from_folder(folder / "dualvitok")


def test_half_precision_is_loaded_as_float32(folder: Path) -> None:
    edit_weights(folder / UNET, lambda w: w.update({name: tensor.bfloat16() for name, tensor in w.items()}))
    model = plus_from_folders(folders_in(folder))
    assert model.unet is not None
    assert {tensor.dtype for tensor in model.unet.state_dict().values()} == {torch.float32}


def test_an_untied_model_comes_back(tmp_path: Path) -> None:
    model = random_plus(small_config(tied=False))
    assert "lm_head.weight" in mllm_weights(model)
    assert states_equal(plus_from_folders(folders_in(write_plus(model, tmp_path / "untied"))), model)


def test_the_published_layout_is_loaded(reference: Path) -> None:
    config = plus_from_folders(folders_in(reference)).config
    facts = json.loads((reference / "golden" / "manifest.json").read_text())["facts"]["special_tokens"]
    assert list(config.vocabulary.level0) == facts["level0_range"]
    assert list(config.vocabulary.level1) == facts["level1_range"]
    assert config.vocabulary.controls["end_of_line"] == facts["end_of_line"]
    assert config.language_model.tie_word_embeddings


BAD_OPTIONS = {
    "nothing": ([], "expected CHECKPOINT, or both --mllm and --tokenizer"),
    "no tokenizer": (["--mllm", "a"], "expected CHECKPOINT, or both --mllm and --tokenizer"),
    "both ways": (["folder", "--decoder", "a"], "CHECKPOINT and --mllm, --tokenizer, --decoder exclude each other"),
}


@pytest.mark.parametrize(("words", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_parts_are_named_all_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["export", *words, "-o", str(tmp_path / "out.bundle")]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_with_the_parts_is_planned_like_any_checkpoint(
    plus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(plus_folder), "-o", str(tmp_path / "out.bundle"), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in plan["stages"]][-4:] == ["vq_decoder", "conditioner", "denoiser", "vae_decoder"]
    assert not (tmp_path / "out.bundle").exists()
