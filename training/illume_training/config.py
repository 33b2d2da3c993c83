"""The training configuration: one TOML file, read strictly."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from illume_runtime.errors import UsageError
from illume_training.lessons import Mixture
from illume_training.loop import Schedule

PHASES: Final = ("vision", "vae", "tokenizer", "denoiser", "stage1", "stage2", "stage3")
_NAMES: Final = {int: "a whole number", str: "a path", bool: "true or false", dict: "a table"}


@dataclass(frozen=True, slots=True)
class PhaseConfig:
    """Schedule of a phase and, for a stage of the language model, its mixture of lessons.

    `corpus` is the folder of the dialogues that the mixture's `checklist`, `assess` and `correct` come from.
    """

    schedule: Schedule
    mixture: Mixture | None
    corpus: Path | None = None


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What `illume train` reads."""

    seed: int
    run: Path
    output: Path
    mixed_precision: bool  # matrix products in bfloat16, where the device has them in hardware
    compile: bool  # torch.compile where it was measured to help
    phases: dict[str, PhaseConfig]


def training_config_from_file(path: Path) -> TrainingConfig:
    """The configuration in a TOML file; raises UsageError for a missing file or a wrong key."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; expected a training configuration such as illume-tiny.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file ({error}); correct it") from None
    kinds = {"seed": int, "run": str, "output": str, "mixed_precision": bool, "compile": bool, "phases": dict}
    _expect_keys(path, "", data, set(kinds))
    for key, kind in kinds.items():
        if type(data[key]) is not kind:
            raise UsageError(f"{path}: {key}: got {data[key]!r}, expected {_NAMES[kind]}")
    phases = data["phases"]
    _expect_keys(path, "phases", phases, set(PHASES))
    return TrainingConfig(
        data["seed"],
        Path(data["run"]),
        Path(data["output"]),
        data["mixed_precision"],
        data["compile"],
        {name: _phase(path, name, phases[name]) for name in PHASES},
    )


def _phase(path: Path, name: str, data: object) -> PhaseConfig:
    values = dict(_table(path, f"phases.{name}", data))
    mixture = values.pop("mixture", None)
    if (mixture is None) == name.startswith("stage"):
        raise UsageError(
            f"{path}: phases.{name}: a mixture belongs to stage1, stage2 and stage3, and to no other phase"
        )
    corpus = values.pop("corpus", None)
    if corpus is not None and not isinstance(corpus, str):
        raise UsageError(f"{path}: phases.{name}.corpus: got {corpus!r}, expected a path")
    schedule = _dataclass(path, f"phases.{name}", Schedule, values)
    if mixture is None:
        if corpus is not None:
            raise UsageError(f"{path}: phases.{name}: a corpus belongs to stage1, stage2 and stage3")
        return PhaseConfig(schedule, None)
    lessons = _dataclass(path, f"phases.{name}.mixture", Mixture, mixture)
    if (corpus is None) != (lessons.of_corpus == 0):
        raise UsageError(
            f"{path}: phases.{name}: a corpus and a mixture with checklist, assess or correct belong together; "
            "give both or none"
        )
    return PhaseConfig(schedule, lessons, None if corpus is None else Path(corpus))


def _dataclass(path: Path, where: str, cls: type[Any], data: object) -> Any:
    values, fields = _table(path, where, data), {f.name: f for f in dataclasses.fields(cls)}
    required = {name for name, f in fields.items() if f.default is dataclasses.MISSING}
    unknown, missing = sorted(set(values) - set(fields)), sorted(required - set(values))
    if unknown or missing:
        raise UsageError(f"{path}: {where}: unknown keys {unknown}, missing keys {missing}; known: {sorted(fields)}")
    for key, value in values.items():
        whole = fields[key].type == "int"
        least = 1 if key in ("steps", "batch_size") else 0
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= least:
            kind = "a whole number" if whole else "a number"
            raise UsageError(f"{path}: {where}.{key}: got {value!r}, expected {kind} >= {least}")
    return cls(**values)


def _table(path: Path, where: str, data: object) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UsageError(f"{path}: {where}: got {data!r}, expected a table")
    return data


def _expect_keys(path: Path, where: str, data: dict[str, Any], keys: set[str]) -> None:
    unknown, missing = sorted(set(data) - keys), sorted(keys - set(data))
    if unknown or missing:
        raise UsageError(f"{path}: {where or 'top level'}: unknown keys {unknown}, missing keys {missing}")
