"""The commands that the help of the three verbs ends in are run as printed, one after the other."""

import shlex
import shutil
from pathlib import Path

import pytest

from illume_runtime.cli.main import VERBS
from illume_training.enhancement.dialogues import dialogues_from_folder


def test_the_examples_lead_from_prompts_to_dialogues(bundle, tmp_path, illume, capsys, monkeypatch):
    shutil.copytree(bundle, tmp_path / "build" / "illume-tiny.bundle")
    (tmp_path / "assets").mkdir()
    prompts = Path(__file__).resolve().parents[2] / "assets" / "prompts.jsonl"
    short = [line for line in prompts.read_text().splitlines() if len(line) < 60][:2]  # the small model's context
    (tmp_path / "assets" / "prompts.jsonl").write_text("\n".join(short))
    monkeypatch.chdir(tmp_path)
    for verb in [name for name in VERBS if name.startswith("enhance ")]:
        with pytest.raises(SystemExit):
            illume(*verb.split(), "--help")
        program, *words = shlex.split(capsys.readouterr().out.rstrip().splitlines()[-1])
        assert (program, " ".join(words[:2])) == ("illume", verb)
        code, _, err = illume(*words)
        assert code == 0, err
    found = dialogues_from_folder(tmp_path / "build" / "dialogues")
    assert len(found) == 2 * len(short)
    assert {one.kind for one in found} == {"correct"}
