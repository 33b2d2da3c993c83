"""The command that each verb's help ends in is run as printed, in a folder laid out as the demo leaves it."""

import shlex
import shutil

import pytest
import torch
from PIL import Image

from illume_runtime.cli.main import VERBS

APART = {"train", "eval", "calibrate"}  # of the large model alone, and minutes or hours long
APART |= {name for name in VERBS if name.startswith("enhance ")}  # each needs what the one before it left


@pytest.fixture
def project(tmp_path, bundle, checkpoint, pictures, monkeypatch):
    (tmp_path / "build" / "demo").mkdir(parents=True)
    shutil.copytree(bundle, tmp_path / "build" / "illume-tiny.bundle")
    shutil.copytree(checkpoint, tmp_path / "assets" / "illume-tiny")
    Image.fromarray(pictures[0]).save(tmp_path / "build" / "demo" / "scene-0.png")
    legacy = tmp_path / "checkpoints" / "dualvitok" / "pytorch_model.bin"
    legacy.parent.mkdir(parents=True)
    torch.save({"model": {"weight": torch.zeros(1)}}, legacy)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("illume_export.cli_verify.REQUESTS_PER_KIND", 3)  # of the 50 that it compares by default
    return tmp_path


@pytest.mark.parametrize("verb", [name for name in VERBS if name not in APART])
def test_the_example_of_a_verb_works_as_printed(illume, project, verb, capsys):
    if verb == "build":
        pytest.importorskip("tensorrt_rtx", reason="needs pip install 'illume-rt[tensorrt-rtx]'")
    with pytest.raises(SystemExit):
        illume(verb, "--help")
    *_, command = capsys.readouterr().out.rstrip().splitlines()
    program, *words = shlex.split(command)
    assert (program, words[0]) == ("illume", verb)
    code, out, err = illume(*words)
    assert code == 0, err
    assert out or verb == "chat"
    assert "Traceback" not in err
    for option in ("-o", "--trace"):
        if option in words:
            assert (project / words[words.index(option) + 1]).exists()
