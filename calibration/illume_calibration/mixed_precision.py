"""A recipe under a budget: as many layers in int8 as leave the tokens alone, or as few as a size allows.

Layers are ranked by what each alone adds to the noise of its stage. Under a budget of tokens every stage may have less
noise from step to step, and its worst layers are relieved, until no vocabulary segment changes more of its tokens than
the budget allows. Under a size the layers go back to float that cost most noise for each byte they save, as long as
there is room. What counts is measured and not predicted: each step makes the bundle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from illume_calibration.bundle_from_recipe import Source, bundle_from_recipe
from illume_calibration.forcing import ForcedPipeline, Run, calls_of_requests
from illume_calibration.quality import bytes_of
from illume_calibration.recipe import Recipe
from illume_calibration.requests import Request
from illume_calibration.sensitivity import Damage, by_damage_per_byte, damages_of_stage, relieved
from illume_calibration.target_size import TargetSize
from illume_runtime.bundle import Bundle
from illume_runtime.cli.table import megabytes
from illume_runtime.errors import QualityError, UsageError

TARGETS_DB: Final = (0.0, 25.0, 30.0, 35.0, 40.0, 50.0)
OnStep = Callable[[str, int, int], None]


def recipe_under_budget(
    source: Source, recipe: Recipe, requests: Sequence[Request], max_drop: float, threads: int | None, on_step: OnStep
) -> tuple[Recipe, list[Damage]]:
    """The recipe that changes at most this share of the tokens of each segment, and all layers, the worst first.

    Raises QualityError if even the last step changes more.
    """
    bundle = source.bundle
    damages = _damages(source, recipe, requests, threads, on_step)
    ranked = sorted((damage for found in damages.values() for damage in found), key=lambda damage: -damage.noise)
    leading = ForcedPipeline(bundle, threads)
    leaders = [leading.run(request, steps=1) for request in requests]
    drops: dict[str, float] = {}
    for done, target_db in enumerate(TARGETS_DB):
        on_step("budget", done, len(TARGETS_DB))
        tried = _relieved(recipe, damages, target_db)
        with _tried(source, tried) as made:
            drops = _changed_shares(made, requests, leaders, threads)
        if all(drop <= max_drop for drop in drops.values()):
            return tried, ranked
    worst = max(drops, key=lambda segment: drops[segment])
    raise QualityError(
        f"--max-drop: {drops[worst]:.2%} of the tokens of {worst} change even with the most sensitive layers in float, "
        f"expected at most {max_drop:.2%}; allow more, or quantize fewer stages"
    )


def recipe_under_size(
    source: Source,
    recipe: Recipe,
    requests: Sequence[Request],
    target: TargetSize,
    threads: int | None,
    on_step: OnStep,
) -> tuple[Recipe, list[Damage]]:
    """The recipe with as many layers back in float, the dearest first, as the size allows; and all layers so ranked.

    Raises UsageError if the recipe as it is makes a larger bundle, or the float bundle is small enough.
    """
    float_bytes = bytes_of(source.bundle)
    allowed = target.num_bytes(float_bytes)
    if allowed >= float_bytes:
        raise UsageError(
            f"--target-size {target.text}: the float bundle has {megabytes(float_bytes)}; nothing needs to be quantized"
        )
    smallest = _size(source, recipe)
    if smallest > allowed:
        raise UsageError(
            f"--target-size {target.text}: the smallest that recipe {recipe.name} reaches is {megabytes(smallest)} "
            f"({smallest / float_bytes:.3f}x); allow that, or let it have smaller weights "
            "(--set STAGE.weights=int4 --set STAGE.activations=float32)"
        )
    damages = _damages(source, recipe, requests, threads, on_step)
    ranked = by_damage_per_byte(damage for found in damages.values() for damage in found)
    room, kept = allowed - smallest, []
    for damage in ranked:
        if damage.noise > 0.0 and damage.saved_bytes <= room:
            kept.append(damage)
            room -= damage.saved_bytes
    chosen = _kept_in_float(recipe, kept, target)
    on_step("size", 0, 1)
    while kept and _size(source, chosen) > allowed:  # what is written beside the weights takes bytes too
        kept.pop()
        chosen = _kept_in_float(recipe, kept, target)
    return chosen, ranked


def _kept_in_float(recipe: Recipe, kept: Sequence[Damage], target: TargetSize) -> Recipe:
    if not kept:
        return recipe
    stages = {}
    for name in dict.fromkeys(damage.stage for damage in kept):
        how = recipe.stage(name)
        assert how is not None
        layers = [damage.layer for damage in kept if damage.stage == name]
        stages[name] = replace(how, keep=(*how.keep, *layers))
    rest = {pattern: how for pattern, how in recipe.stages.items() if pattern not in stages}
    return replace(recipe, stages={**stages, **rest}, name=f"{recipe.name}, {target.text}")


def _size(source: Source, recipe: Recipe) -> int:
    with _tried(source, recipe) as made:
        return bytes_of(made)


@contextmanager
def _tried(source: Source, recipe: Recipe) -> Iterator[Bundle]:
    """The bundle by the recipe, for as long as it is looked at."""
    with TemporaryDirectory() as folder:
        yield bundle_from_recipe(source, recipe, Path(folder, "bundle"), None, lambda name, done, total: None)


def _damages(
    source: Source, recipe: Recipe, requests: Sequence[Request], threads: int | None, on_step: OnStep
) -> dict[str, list[Damage]]:
    """The layers of every stage that the recipe quantizes and a request reaches."""
    bundle, damages = source.bundle, dict[str, list[Damage]]()
    reservoir = calls_of_requests(bundle, requests, seed=0, threads=threads)
    names = [name for name in reservoir.stages if recipe.stage(name) is not None]
    for done, name in enumerate(names):
        on_step("sensitivity", done, len(names))
        how = recipe.stage(name)
        assert how is not None
        calls = list(reservoir.calls(name))
        damages[name] = damages_of_stage(bundle, name, calls, source.statistics.get(name), recipe, how, threads)
    return damages


def _relieved(recipe: Recipe, damages: dict[str, list[Damage]], target_db: float) -> Recipe:
    stages = {}
    for name, found in damages.items():
        how = recipe.stage(name)
        assert how is not None
        stages[name] = relieved(how, found, target_db) if target_db else how
    changed = any(stages[name] != recipe.stage(name) for name in stages)
    name = f"{recipe.name}, {target_db:g} dB" if changed else recipe.name
    rest = {pattern: how for pattern, how in recipe.stages.items() if pattern not in stages}
    return replace(recipe, stages={**stages, **rest}, name=name)


def _changed_shares(
    quantized: Bundle, requests: Sequence[Request], leaders: Sequence[Run], threads: int | None
) -> dict[str, float]:
    """Share of tokens by segment whose likeliest choice is another one."""
    led = ForcedPipeline(quantized, threads)
    changed: dict[str, list[bool]] = defaultdict(list)
    for request, leader in zip(requests, leaders, strict=True):
        run = led.run(request, leader, steps=1)
        for segment, expected, got in zip(leader.segments, leader.logits, run.logits, strict=True):
            changed[segment].append(bool(expected.argmax() != got.argmax()))
    return {segment: sum(found) / len(found) for segment, found in changed.items()}
