"""A recipe under a budget: as many layers in int8 as leave the tokens alone.

Layers are ranked by what each alone adds to the noise of its stage. From step to step every stage may have less noise,
and its worst layers are relieved, until no vocabulary segment changes more of its tokens than the budget allows. What
counts is measured and not predicted: each step makes the bundle and runs it beside the float one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from illume_calibration.bundle_from_recipe import Source, bundle_from_recipe
from illume_calibration.forcing import ForcedPipeline, Run, calls_of_requests
from illume_calibration.recipe import Recipe
from illume_calibration.requests import Request
from illume_calibration.sensitivity import Damage, damages_of_stage, relieved
from illume_runtime.bundle import Bundle
from illume_runtime.errors import QualityError

TARGETS_DB: Final = (0.0, 25.0, 30.0, 35.0, 40.0, 50.0)
OnStep = Callable[[str, int, int], None]


def recipe_under_budget(
    source: Source, recipe: Recipe, requests: Sequence[Request], max_drop: float, threads: int | None, on_step: OnStep
) -> tuple[Recipe, list[Damage]]:
    """The recipe that changes at most this share of the tokens of each segment, and all layers, the worst first.

    Raises QualityError if even the last step changes more.
    """
    bundle = source.bundle
    reservoir = calls_of_requests(bundle, requests, seed=0, threads=threads)
    damages: dict[str, list[Damage]] = {}
    names = [name for name in reservoir.stages if recipe.stage(name) is not None]
    for done, name in enumerate(names):
        on_step("sensitivity", done, len(names))
        how = recipe.stage(name)
        assert how is not None
        calls = list(reservoir.calls(name))
        damages[name] = damages_of_stage(bundle, name, calls, source.statistics.get(name), recipe, how, threads)
    ranked = sorted((damage for found in damages.values() for damage in found), key=lambda damage: -damage.noise)
    leading = ForcedPipeline(bundle, threads)
    leaders = [leading.run(request, steps=1) for request in requests]
    drops: dict[str, float] = {}
    for done, target_db in enumerate(TARGETS_DB):
        on_step("budget", done, len(TARGETS_DB))
        tried = _relieved(recipe, damages, target_db)
        with TemporaryDirectory() as folder:
            made = bundle_from_recipe(source, tried, Path(folder, "bundle"), None, lambda name, done, total: None)
            drops = _changed_shares(made, requests, leaders, threads)
        if all(drop <= max_drop for drop in drops.values()):
            return tried, ranked
    worst = max(drops, key=lambda segment: drops[segment])
    raise QualityError(
        f"--max-drop: {drops[worst]:.2%} of the tokens of {worst} change even with the most sensitive layers in float, "
        f"expected at most {max_drop:.2%}; allow more, or quantize fewer stages"
    )


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
