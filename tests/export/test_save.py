from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from illume_export.families.illume import checkpoint_from_model, illume_from_checkpoint
from illume_export.models import IllumeConfig
from small_model import GENERATION_CONFIG, random_model, small_config


def test_weights_come_back_as_what_float16_holds(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = random_model(small_config())
    checkpoint_from_model(model, tmp_path / "new", tokenizer, GENERATION_CONFIG)
    loaded = illume_from_checkpoint(tmp_path / "new").state_dict()
    expected = model.state_dict()
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.half().float()), name


def test_everything_is_stored_as_float16(checkpoint: Path) -> None:
    assert {tensor.dtype for tensor in load_file(checkpoint / "model.safetensors").values()} == {torch.float16}


def test_configuration_comes_back(checkpoint: Path) -> None:
    assert IllumeConfig.from_json(json.loads((checkpoint / "config.json").read_text())) == small_config()


def test_other_files_of_the_folder_stay(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "README.md").write_text("card")
    checkpoint_from_model(random_model(small_config()), tmp_path, tokenizer, {})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}


def test_a_weight_beyond_float16_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = random_model(small_config())
    with torch.no_grad():
        model.denoiser.out.bias[0] = 1e5
    with pytest.raises(ValueError, match=r"denoiser\.out\.bias: holds values that float16 cannot .*100000"):
        checkpoint_from_model(model, tmp_path / "new", tokenizer, {})
    assert not (tmp_path / "new").exists()
