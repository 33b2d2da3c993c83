"""`illume train` with a corpus: mixed into stage 3, refused where it does not fit, taught in the checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from illume_runtime.errors import UsageError
from illume_training.config import training_config_from_file

TINY = Path(__file__).resolve().parents[2] / "training/configs/illume-tiny.toml"
MIXTURE = "mixture = { draw = 14, ask = 6, edit = 14, reconstruct = 1"


def config(folder: Path, *, more: str = "", corpus: str = "") -> Path:
    """The shipped configuration with more in the mixture of stage 3, and a corpus."""
    text = TINY.read_text(encoding="utf-8")
    assert text.count(f"{MIXTURE} }}") == 1
    text = text.replace(f"{MIXTURE} }}", f"{MIXTURE}{more} }}{corpus}")
    path = folder / "c.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_corpus_and_its_share_are_read(tmp_path: Path) -> None:
    path = config(tmp_path, more=", checklist = 1, assess = 2, correct = 3", corpus='\ncorpus = "build/dialogues"')
    phase = training_config_from_file(path).phases["stage3"]
    assert phase.mixture is not None
    assert (phase.mixture.of_corpus, phase.mixture.assess, phase.mixture.correct, phase.corpus) == (
        6,
        2,
        3,
        Path("build/dialogues"),
    )
    assert training_config_from_file(TINY).phases["stage3"].corpus is None


@pytest.mark.parametrize(
    ("more", "corpus", "message"),
    [
        (", assess = 2", "", "phases.stage3: a corpus and a mixture with checklist, assess or correct"),
        ("", '\ncorpus = "d"', "phases.stage3: a corpus and a mixture with checklist, assess or correct"),
        (", assess = 2", "\ncorpus = 3", "phases.stage3.corpus: got 3, expected a path"),
        (", assess = -1", '\ncorpus = "d"', "phases.stage3.mixture.assess: got -1, expected a whole number >= 0"),
    ],
)
def test_a_corpus_that_does_not_fit_is_refused(tmp_path: Path, more: str, corpus: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        training_config_from_file(config(tmp_path, more=more, corpus=corpus))


def test_a_phase_without_lessons_has_no_corpus(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(TINY.read_text(encoding="utf-8").replace("[phases.vae]", '[phases.vae]\ncorpus = "d"'))
    with pytest.raises(UsageError, match=r"phases.vae: a corpus belongs to stage1, stage2 and stage3"):
        training_config_from_file(path)
