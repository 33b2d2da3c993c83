"""The small model, its checkpoint and its bundle, each made once per session; torch is imported where it is needed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import illume_runtime  # noqa: F401 - before any test imports onnxruntime: it turns its telemetry off

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Bytes, one token each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A checkpoint folder; read only."""
    from illume_export.families.illume import checkpoint_from_model
    from small_model import GENERATION_CONFIG, random_model, small_config

    folder = tmp_path_factory.mktemp("checkpoint")
    return checkpoint_from_model(random_model(small_config()), folder, tokenizer, GENERATION_CONFIG)


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint's bundle, made by the command; read only."""
    from illume_runtime.cli.main import main

    output = tmp_path_factory.mktemp("exported") / "small.bundle"
    assert main(["export", str(checkpoint), "-o", str(output)]) == 0
    return output


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """uint8 [4, 96, 96, 3]: shapes, each picture another one."""
    from illume_export.pictures import drawn_pictures

    return drawn_pictures(4, 96)


@pytest.fixture
def changed_bundle(bundle: Path, tmp_path: Path) -> Callable[[dict[str, object]], Path]:
    """A function: a copy of the bundle whose bundle.json has other values at some keys, given as `a.b.c`."""
    import json
    import shutil

    from bundle_folder import set_key

    def copy(keys: dict[str, object]) -> Path:
        folder = tmp_path / f"changed-{len(list(tmp_path.iterdir()))}.bundle"
        shutil.copytree(bundle, folder)
        data = json.loads((folder / "bundle.json").read_text())
        for key, value in keys.items():
            set_key(data, key, value)
        (folder / "bundle.json").write_text(json.dumps(data))
        return folder

    return copy


@pytest.fixture
def illume(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process: (exit code, standard output, standard error)."""
    from illume_runtime.cli.main import main

    def run(*words: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main([str(word) for word in words])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run
