"""A recipe: what becomes of the layers of each stage, and what the result must reach. TOML, one file.

    method = "mse"                       # ranges of activations: minmax, percentile, entropy, mse
    percentile = 99.99

    [stages.denoiser]
    weights = "int8"                     # int8, int4, float32
    activations = "int8"                 # int8, float32 (weights alone)
    keep = ["inp", "out"]                # layers that stay in float32: shell patterns, @first_conv, @last_conv, @last
    weight_only = ["time.*"]             # layers with float32 activations
    scaling = "smoothquant"              # of channels: none, smoothquant, awq
    rounding = "gptq"                    # of weights: nearest, gptq
    group_size = 32                      # of int4 weights: 16, 32, 64, 128

    [bars]
    agreement = 0.99

A stage may be named by a pattern (`head_*`); of several that match the first one counts. A stage that no name matches
stays in float32. The table `token_embedding` is named like a stage, but by no pattern, and has `weights` alone: int8 (a
scale for each row) or float32 (as it is).
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from illume_calibration.layers import Layer
from illume_calibration.ranges import Method
from illume_runtime.errors import UsageError
from illume_runtime.manifest import EMBEDDING_TABLE
from illume_runtime.quantization import Activations, Bars, Rounding, Scaling, Weights
from illume_runtime.residency import LANGUAGE, phase_of
from illume_runtime.typed_json import value_from_json

FOLDER: Final = Path(__file__).parent / "recipes"
DEFAULT: Final = "default"
DEFAULT_BARS: Final = Bars()
GROUP_SIZES: Final = (16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """What becomes of the layers of a stage."""

    weights: Weights
    activations: Activations = "float32"
    group_size: int = 32  # of int4
    keep: tuple[str, ...] = ()
    weight_only: tuple[str, ...] = ()
    scaling: Scaling = "none"
    rounding: Rounding = "nearest"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All stages by name or pattern, and how the ranges of activations are found."""

    method: Method
    stages: Mapping[str, StageRecipe]
    percentile: float = 99.99
    bars: Bars = DEFAULT_BARS
    name: str = ""

    def stage(self, name: str) -> StageRecipe | None:
        """The recipe of a stage; None if it stays in float32."""
        for pattern, recipe in self.stages.items():
            if fnmatchcase(name, pattern):
                return None if recipe.weights == "float32" else recipe
        return None

    @property
    def has_int8_embedding(self) -> bool:
        """Whether the table of token embeddings gets int8 rows."""
        recipe = self.stages.get(EMBEDDING_TABLE)
        return recipe is not None and recipe.weights == "int8"


def default_name(family: str) -> str:
    """The shipped recipe of a family, or that of all others."""
    return family if (FOLDER / f"{family}.toml").is_file() else DEFAULT


def is_shipped(name: str) -> bool:
    """Whether a recipe of that name ships with this package; else it is a file of the user's."""
    return "/" not in name and (FOLDER / f"{name}.toml").is_file()


def recipe_from_name(name: str) -> Recipe:
    """The recipe in a file, or one that ships with this package by its name. Raises UsageError."""
    path = FOLDER / f"{name}.toml" if is_shipped(name) else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml")))
        raise UsageError(f"--recipe {name}: no such file; name one, or one of those that ship: {known}")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no TOML: {error}") from error
    return replace(_recipe(data, str(path)), name=path.stem)


def with_overrides(recipe: Recipe, overrides: Sequence[str], method: Method | None) -> Recipe:
    """The recipe with `STAGE.KEY=VALUE` applied; a list is written as a,b. Raises UsageError."""
    stages = {pattern: _json_of(stage) for pattern, stage in recipe.stages.items()}
    changed = dict[str, dict[str, Any]]()
    for text in overrides:
        stage, key, value = _parts_of(text)
        names = (stage,) if stage == EMBEDDING_TABLE else (stage, *stages)
        base = next((stages[p] for p in names if p in stages and fnmatchcase(stage, p)), {"weights": "int8"})
        changed.setdefault(stage, dict(base))[key] = _value(key, value, text)
    data = {
        "method": method or recipe.method,
        "percentile": recipe.percentile,
        "stages": {**changed, **{pattern: stage for pattern, stage in stages.items() if pattern not in changed}},
        "bars": {field.name: getattr(recipe.bars, field.name) for field in fields(Bars)},
    }
    made = _recipe(data, "--set")
    touched = bool(overrides) or (method is not None and method != recipe.method)
    return replace(made, name=f"{recipe.name}, changed" if touched else recipe.name)


def weights_alone(recipe: Recipe, stages: Collection[str]) -> Recipe:
    """The recipe for the weights of decoder, heads and embeddings alone, rounded plainly: it needs no data."""
    language = {name: found for name in stages if phase_of(name) == LANGUAGE and (found := recipe.stage(name))}
    alone = {
        name: replace(found, activations="float32", weight_only=(), scaling="none", rounding="nearest")
        for name, found in language.items()
    }
    if recipe.has_int8_embedding:
        alone[EMBEDDING_TABLE] = recipe.stages[EMBEDDING_TABLE]
    return replace(recipe, stages=alone, name=f"{recipe.name}, weights alone")


def _parts_of(text: str) -> tuple[str, str, str]:
    """Stage, key and value of an override."""
    left, equals, value = text.partition("=")
    stage, dot, key = left.rpartition(".")
    known = [field.name for field in fields(StageRecipe)]
    if not equals or not dot or key not in known:
        raise UsageError(f"--set {text}: expected STAGE.KEY=VALUE with a key of {', '.join(known)}")
    return stage, key, value


def check_stages(name: str, recipe: Recipe, overrides: Sequence[str], stages: Collection[str]) -> None:
    """Raise UsageError if `--set` or the user's recipe of that name speaks of a stage that is none of the bundle's.

    Patterns may match none, and so may the names in shipped recipes: a bundle need not have all stages of its family.
    """
    of_file = () if is_shipped(name) else recipe.stages
    for stage in (*(_parts_of(text)[0] for text in overrides), *of_file):
        if stage not in (*stages, EMBEDDING_TABLE) and not set("*?[") & set(stage):
            near = get_close_matches(stage, stages, n=3, cutoff=0.3) or sorted(stages)
            raise UsageError(f"recipe: there is no stage {stage!r}; the nearest names are {', '.join(near)}")


def for_layers(recipe: StageRecipe, stage: str, layers: Sequence[Layer]) -> StageRecipe:
    """The recipe with the names of layers in place of its patterns.

    Raises UsageError for a pattern that no layer of the stage has, and says which names are near.
    """
    keep = _names(recipe.keep, f"{stage}.keep", layers)
    return replace(recipe, keep=keep, weight_only=_names(recipe.weight_only, f"{stage}.weight_only", layers))


def _names(patterns: Sequence[str], where: str, layers: Sequence[Layer]) -> tuple[str, ...]:
    names = [layer.name for layer in layers]
    convolutions = [layer.name for layer in layers if layer.kind == "conv"]
    places = {"@first_conv": convolutions[:1], "@last_conv": convolutions[-1:], "@last": names[-1:]}
    found: list[str] = []
    for pattern in patterns:
        matching = places.get(pattern, [name for name in names if fnmatchcase(name, pattern)])
        if not matching and pattern not in places:
            near = get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise UsageError(f"recipe, {where}: there is no layer {pattern!r}; the nearest names are {', '.join(near)}")
        found += [name for name in matching if name not in found]
    return tuple(found)


def _recipe(data: dict[str, Any], where: str) -> Recipe:
    if "name" in data:
        raise UsageError(f"{where}: name: unknown key; a recipe is called what its file is called")
    try:
        recipe = value_from_json(Recipe, data, "")
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    if not 50.0 <= recipe.percentile <= 100.0:
        raise UsageError(f"{where}: percentile: got {recipe.percentile:g}, expected a number from 50 to 100")
    for pattern, stage in recipe.stages.items():
        if pattern == EMBEDDING_TABLE and stage not in (StageRecipe("int8"), StageRecipe("float32")):
            raise UsageError(f"{where}: stages.{pattern}: a table has weights alone, expected int8 or float32")
        if stage.group_size not in GROUP_SIZES:
            raise UsageError(f"{where}: stages.{pattern}.group_size: got {stage.group_size}, expected {GROUP_SIZES}")
        if stage.weights == "int4" and stage.activations == "int8":
            raise UsageError(f"{where}: stages.{pattern}: int4 weights need activations = 'float32'")
    return recipe


def _json_of(stage: StageRecipe) -> dict[str, Any]:
    return {
        field.name: list(value) if isinstance(value := getattr(stage, field.name), tuple) else value
        for field in fields(StageRecipe)
    }


def _value(key: str, value: str, text: str) -> Any:
    if key in ("keep", "weight_only"):
        return [item for item in value.split(",") if item]
    if key in ("weights", "activations", "scaling", "rounding"):
        return value
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"--set {text}: expected a whole number") from None
