"""The training configuration is read strictly: what is wrong is named, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from illume_runtime.errors import UsageError
from illume_training.config import PHASES, training_config_from_file
from illume_training.lessons import Mixture

TINY = Path(__file__).resolve().parents[2] / "training/configs/illume-tiny.toml"
TEXT = TINY.read_text(encoding="utf-8")


def test_the_shipped_configuration_reads() -> None:
    config = training_config_from_file(TINY)
    assert tuple(config.phases) == PHASES
    assert config.phases["vae"].mixture is None
    assert config.phases["stage1"].mixture == Mixture(draw=0, ask=0, edit=0, reconstruct=32)
    assert config.phases["vision"].schedule.steps == 1000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 1\n", "", "top level: unknown keys [], missing keys ['seed']"),
        ("seed = 1\n", "seed = 1\nsed = 1\n", "top level: unknown keys ['sed'], missing keys []"),
        ("seed = 1\n", "seed = 'one'\n", "seed: got 'one', expected a whole number"),
        ("compile = true", "compile = 1", "compile: got 1, expected true or false"),
        ('run = "build/train"', "run = 3", "run: got 3, expected a path"),
        ("steps = 4000\n", "steps = 4000.5\n", "phases.vae.steps: got 4000.5, expected a whole number >= 1"),
        ("steps = 4000\n", "steps = 0\n", "phases.vae.steps: got 0, expected a whole number >= 1"),
        ("steps = 4000\n", "step = 4000\n", "phases.vae: unknown keys ['step'], missing keys ['steps']"),
        ("ema = 0.999\n", "ema = true\n", "phases.vae.ema: got True, expected a number >= 0"),
        ("ema = 0.999\n", "ema = -1\n", "phases.vae.ema: got -1, expected a number >= 0"),
        ("ema = 0.999\n", "ema = nan\n", "phases.vae.ema: got nan, expected a number >= 0"),
        ("draw = 13", "draw = 0.5", "phases.stage3.mixture.draw: got 0.5, expected a whole number >= 0"),
        ("draw = 13", "paint = 13", "phases.stage3.mixture: unknown keys ['paint'], missing keys ['draw']"),
        ("mixture = { draw = 13, ask = 7, edit = 11, reconstruct = 1 }", "mixture = 5", "mixture: got 5"),
        ("mixture = { draw = 13, ask = 7, edit = 11, reconstruct = 1 }", "", "phases.stage3: a mixture belongs to"),
        ("ema = 0.999\n", "mixture = { draw = 1 }\n", "phases.vae: a mixture belongs to"),
        ("[phases.vae]", "[phases.vea]", "phases: unknown keys ['vea'], missing keys ['vae']"),
        ("seed = 1\n", "seed = \n", "not a TOML file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    path = tmp_path / "wrong.toml"
    path.write_text(TEXT.replace(old, new), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        training_config_from_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file; expected a training configuration"):
        training_config_from_file(tmp_path / "none.toml")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a TOML file"):
        training_config_from_file(path)
