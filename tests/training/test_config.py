"""The training configuration is read strictly: what is wrong is named, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from illume_runtime.errors import UsageError
from illume_training.config import PHASES, PhaseConfig, training_config_from_file
from illume_training.lessons import Mixture
from illume_training.loop import Schedule

TINY = Path(__file__).resolve().parents[2] / "training/configs/illume-tiny.toml"
PLAIN = "\n".join(f"[phases.{name}]\nsteps = 5\nbatch_size = 2\nlearning_rate = 1e-3\n" for name in PHASES[1:4])
STAGES = "\n".join(
    f"[phases.{name}]\nsteps = 5\nbatch_size = 2\nlearning_rate = 1e-3\n"
    "mixture = { draw = 1, ask = 2, edit = 3, reconstruct = 4 }\n"
    for name in PHASES[4:]
)
TEXT = f"""
seed = 1
run = "run"
output = "checkpoint"
mixed_precision = true
compile = true

[phases.vision]
steps = 4321
batch_size = 2
learning_rate = 1e-3
ema = 0.75

{PLAIN}
{STAGES}
"""
MIXTURE = "mixture = { draw = 1, ask = 2, edit = 3, reconstruct = 4 }"


def test_the_shipped_configuration_reads() -> None:
    assert tuple(training_config_from_file(TINY).phases) == PHASES


def test_a_configuration_reads(tmp_path: Path) -> None:
    path = tmp_path / "right.toml"
    path.write_text(TEXT, encoding="utf-8")
    config = training_config_from_file(path)
    assert (config.seed, config.run, config.output) == (1, Path("run"), Path("checkpoint"))
    assert config.phases["vision"] == PhaseConfig(Schedule(4321, 2, 1e-3, ema=0.75), None)
    assert config.phases["stage2"] == PhaseConfig(Schedule(5, 2, 1e-3), Mixture(draw=1, ask=2, edit=3, reconstruct=4))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 1\n", "", "top level: unknown keys [], missing keys ['seed']"),
        ("seed = 1\n", "seed = 1\nsed = 1\n", "top level: unknown keys ['sed'], missing keys []"),
        ("seed = 1\n", "seed = 'one'\n", "seed: got 'one', expected a whole number"),
        ("compile = true", "compile = 1", "compile: got 1, expected true or false"),
        ('run = "run"', "run = 3", "run: got 3, expected a path"),
        ("steps = 4321\n", "steps = 4321.5\n", "phases.vision.steps: got 4321.5, expected a whole number >= 1"),
        ("steps = 4321\n", "steps = 0\n", "phases.vision.steps: got 0, expected a whole number >= 1"),
        ("steps = 4321\n", "step = 4321\n", "phases.vision: unknown keys ['step'], missing keys ['steps']"),
        ("ema = 0.75\n", "ema = true\n", "phases.vision.ema: got True, expected a number >= 0"),
        ("ema = 0.75\n", "ema = -1\n", "phases.vision.ema: got -1, expected a number >= 0"),
        ("ema = 0.75\n", "ema = nan\n", "phases.vision.ema: got nan, expected a number >= 0"),
        ("draw = 1", "draw = 0.5", "phases.stage1.mixture.draw: got 0.5, expected a whole number >= 0"),
        ("draw = 1", "paint = 1", "phases.stage1.mixture: unknown keys ['paint'], missing keys ['draw']"),
        (MIXTURE, "mixture = 5", "mixture: got 5"),
        (MIXTURE, "", "phases.stage1: a mixture belongs to"),
        ("ema = 0.75\n", "mixture = { draw = 1 }\n", "phases.vision: a mixture belongs to"),
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
