"""The small checkpoint of the family, written once per session, and the published family's reference data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from plus_checkpoint import DATA, published_config, random_plus, small_config, write_plus
from reference_sides import Arrays, Setup, setup_of

from illume_export.families.illume_plus.models import IllumePlus
from illume_runtime.cli.main import main


@pytest.fixture(scope="session")
def plus() -> IllumePlus:
    """The small model as it is in memory."""
    return random_plus(small_config())


@pytest.fixture(scope="session")
def plus_folder(plus: IllumePlus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's checkpoint; read only."""
    return write_plus(plus, tmp_path_factory.mktemp("plus") / "plus-small")


@pytest.fixture(scope="session")
def published_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language model under `tests/data` with a tokenizer and a decoder of random weights; read only."""
    folder = tmp_path_factory.mktemp("published") / "plus-tiny"
    return write_plus(random_plus(published_config()), folder, mllm=DATA / "mllm")


@pytest.fixture(scope="session")
def published_bundle(published_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle, made by the command; read only."""
    output = tmp_path_factory.mktemp("exported_plus") / "plus-tiny.bundle"
    parts = (("--mllm", "mllm"), ("--tokenizer", "dualvitok"), ("--decoder", "sdxl_decoder"))
    words = [word for option, name in parts for word in (option, str(published_folder / name))]
    assert main(["export", *words, "-o", str(output)]) == 0
    return output


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with what the reference implementation computed, `illume_plus_tiny`."""
    root = os.environ.get("ILLUME_REFERENCE")
    if not root:
        pytest.skip("ILLUME_REFERENCE is not set to the folder that holds illume_plus_tiny")
    return Path(root) / "illume_plus_tiny"


@pytest.fixture(scope="session")
def committed(published_folder: Path, published_bundle: Path) -> Setup:
    """The committed arrays; the language model and the tower are those of the reference."""
    with np.load(DATA / "stages.npz") as arrays:
        return setup_of(dict(arrays), DATA / "prompts.json", published_folder, published_bundle)


@pytest.fixture(scope="session")
def whole(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """All arrays, and all parts of the reference."""
    bundle = tmp_path_factory.mktemp("reference") / "reference.bundle"
    parts = (("--mllm", "mllm"), ("--tokenizer", "dualvitok"), ("--decoder", "sdxl_decoder"))
    words = [word for option, name in parts for word in (option, str(reference / name))]
    assert main(["export", *words, "-o", str(bundle)]) == 0
    arrays: Arrays = {}
    for path in sorted((reference / "golden").glob("*.npz")):
        with np.load(path) as file:
            arrays |= {f"{path.name[0]}/{name}": file[name] for name in file}
    return setup_of(arrays, reference / "golden" / "prompts.json", reference, bundle)
