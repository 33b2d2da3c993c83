"""A corpus of the small model, and the command line."""

import pytest
from generation_of_tests import PROMPTS, generation, write_prompts

from illume_runtime.cli.main import main


@pytest.fixture
def prompts(tmp_path):
    """A file of four prompts."""
    return write_prompts(tmp_path / "prompts.jsonl", PROMPTS)


@pytest.fixture(scope="session")
def corpus(bundle, tmp_path_factory):
    """A complete corpus: two samples of four prompts in three batches; read only."""
    folder = tmp_path_factory.mktemp("corpora")
    file = write_prompts(folder / "prompts.jsonl", PROMPTS)
    assert main(generation(bundle, file, folder / "corpus")) == 0
    return folder / "corpus"


@pytest.fixture(scope="session")
def taught(bundle, tmp_path_factory):
    """The bundle of the small model as if it had learnt to assess; read only."""
    import hashlib
    import json
    import shutil

    folder = tmp_path_factory.mktemp("taught") / "taught.bundle"
    shutil.copytree(bundle, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "assess": {"max_tokens": 8}}))
    data = json.loads((folder / "bundle.json").read_text())
    content = file.read_bytes()
    data["files"][file.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "bundle.json").write_text(json.dumps(data))
    return folder
