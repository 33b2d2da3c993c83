"""Every way to quantize each stage, side by side: the table from which a recipe is chosen.

    python -m illume_calibration.choices build/illume-tiny.bundle --data assets/calibration/requests.jsonl

A row is one stage (the decoder twice: prompts and single steps), quantized in one way and run on the calls of the
requests that calibration does not see. SQNR is that of the stage's output, time the median over the calls of the best
of a few runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Final

import numpy as np
import onnx

from illume_calibration.comparison import SignalNoise
from illume_calibration.forcing import calls_of_requests
from illume_calibration.graph_file import graph_from_stage, save_graph
from illume_calibration.layers import layers_of
from illume_calibration.observing import observe
from illume_calibration.quality import CACHE
from illume_calibration.quantizing import quantize_stage
from illume_calibration.ranges import METHODS
from illume_calibration.recipe import Recipe, StageRecipe, default_name, recipe_from_name
from illume_calibration.requests import HELD_OUT, requests_from_file
from illume_calibration.reservoir import FEW_TOKENS, Call, Reservoir
from illume_calibration.running import WatchedSession
from illume_calibration.statistics import Statistics
from illume_runtime.bundle import Bundle
from illume_runtime.errors import UsageError

RUNS: Final = 7
WIDE: Final = 128  # a group of int4 weights beside the recipe's
FLOAT: Final = "float32"
BEGIN: Final = "<!-- choices -->"
END: Final = "<!-- end of choices -->"


@dataclass(frozen=True, slots=True)
class Row:
    """One stage in one way. `agreement` is the share of equal codes of a stage that gives codes."""

    stage: str
    choice: str
    sqnr_db: float | None
    agreement: float | None
    num_bytes: int
    time_ms: float


def choices_of(recipe: Recipe, stage: str) -> Iterator[tuple[str, Recipe, StageRecipe]]:
    """What is tried: each method with int8 activations, then weights alone, rounded plainly where nothing is said."""
    recipe_of_stage = recipe.stage(stage) or StageRecipe("int8")
    yield "the recipe", recipe, recipe_of_stage
    base = replace(recipe_of_stage, scaling="none", rounding="nearest")
    for method in METHODS:
        how = replace(base, weights="int8", activations="int8", weight_only=())
        yield f"W8A8 {method}", replace(recipe, method=method), how
    whole = replace(base, weights="int8", activations="int8", keep=(), weight_only=())
    yield "W8A8, all layers", recipe, whole
    eight = replace(base, weights="int8", activations="int8", weight_only=())
    for scaling in ("smoothquant", "awq"):
        yield f"W8A8 {recipe.method} {scaling}", recipe, replace(eight, scaling=scaling)
    four = replace(base, weights="int4", activations="float32")
    alone = {
        "W8": replace(base, weights="int8", activations="float32"),
        "W4": four,
        f"W4 in groups of {WIDE}": replace(four, group_size=WIDE),
    }
    for name, weights in alone.items():
        yield name, recipe, weights
        yield f"{name} gptq", recipe, replace(weights, rounding="gptq")
        yield f"{name} awq", recipe, replace(weights, scaling="awq")
        yield f"{name} awq gptq", recipe, replace(weights, scaling="awq", rounding="gptq")


def rows_of(bundle: Bundle, data: Path, recipe: Recipe, threads: int | None) -> Iterator[Row]:
    """All rows, stage by stage."""
    requests = list(requests_from_file(data))
    calibrating = [request for i, request in enumerate(requests, start=1) if i % HELD_OUT]
    with TemporaryDirectory() as folder:
        statistics = observe(
            bundle,
            calibrating,
            Path(folder, "work"),
            identity="choices",
            data=data,
            threads=threads,
            on_request=lambda done, total: None,
        ).statistics
        reservoir = calls_of_requests(bundle, requests[HELD_OUT - 1 :: HELD_OUT], seed=0, threads=threads)
        for stage in reservoir.stages:
            yield from _rows_of_stage(bundle, stage, reservoir, statistics, recipe, Path(folder), threads)


def _rows_of_stage(
    bundle: Bundle,
    stage: str,
    reservoir: Reservoir,
    statistics: Statistics,
    recipe: Recipe,
    folder: Path,
    threads: int | None,
) -> Iterator[Row]:
    spec = bundle.stage(stage)
    kinds: dict[str, list[Call]] = {}
    for call in reservoir.calls(stage):
        kinds.setdefault(_kind(stage, call), []).append(call)
    path = folder / f"{stage}.onnx"
    tried: list[tuple[str, onnx.ModelProto]] = [(FLOAT, graph_from_stage(bundle.path, spec))]
    for choice, with_method, how in choices_of(recipe, stage):
        model = graph_from_stage(bundle.path, spec)
        if not _has_products(model) and (how.weights == "int4" or how.rounding == "gptq"):
            continue  # convolutions are rounded to int8, plainly
        try:
            quantized = quantize_stage(stage, model, statistics.get(stage), with_method, how)
        except (UsageError, ValueError) as error:
            print(f"{stage}, {choice}: left out: {error}", file=sys.stderr)
            continue
        if how.scaling == "none" or quantized.report.scaled:
            tried.append((choice, model))
    for choice, model in tried:
        save_graph(model, path)
        session = WatchedSession(path, spec, threads, (), lambda stage, feeds, outputs: outputs)
        for kind, calls in kinds.items():
            yield _row(kind, choice, session, calls, path.stat().st_size)


def _has_products(model: onnx.ModelProto) -> bool:
    return any(layer.kind == "linear" for layer in layers_of(model.graph))


def _kind(stage: str, call: Call) -> str:
    tokens = call.inputs["inputs_embeds"].shape[1] if "inputs_embeds" in call.inputs else 0
    return stage if not tokens else f"{stage}, {'a step' if tokens <= FEW_TOKENS else 'a prompt'}"


def _row(kind: str, choice: str, session: WatchedSession, calls: Sequence[Call], num_bytes: int) -> Row:
    sums, equal, times = SignalNoise(), [], []
    for call in calls:
        best = np.inf
        for _ in range(RUNS):
            start = perf_counter()
            got = session.run(call.inputs)
            best = min(best, perf_counter() - start)
        times.append(best)
        for name, expected in call.outputs.items():
            if np.issubdtype(expected.dtype, np.integer):
                equal.append(float((expected == got[name]).mean()))
            elif CACHE not in name:
                sums.add(np.asarray(expected, np.float32), np.asarray(got[name], np.float32))
    sqnr_db = sums.sqnr_db if choice != FLOAT and not equal else None
    agreement = float(np.mean(equal)) if equal and choice != FLOAT else None
    return Row(kind, choice, sqnr_db, agreement, num_bytes, median(times) * 1e3)


def markdown_of(rows: Sequence[Row]) -> str:
    """The table."""
    lines = ["| stage | choice | SQNR | equal codes | MB | ms |", "|---|---|--:|--:|--:|--:|"]
    for row in sorted(rows, key=lambda row: row.stage):
        sqnr = "" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB"
        equal = "" if row.agreement is None else f"{row.agreement:.1%}"
        lines.append(
            f"| {row.stage} | {row.choice} | {sqnr} | {equal} | {row.num_bytes / 1e6:.2f} | {row.time_ms:.3f} |"
        )
    return "\n".join(lines)


def write_into(path: Path, table: str) -> None:
    """Put the table between the marks of a Markdown file. Raises UsageError if they are not there."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{path}: has no lines {BEGIN} and {END} to write the table between")
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="every way to quantize each stage, side by side")
    parser.add_argument("bundle", help="float bundle")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE.jsonl", help="requests")
    parser.add_argument("--recipe", metavar="NAME", help="which layers stay in float (the family's)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a stage (1)")
    parser.add_argument("--into", type=Path, metavar="FILE.md", help="write the table between its marks")
    args = parser.parse_args(arguments)
    bundle = Bundle.open(args.bundle)
    recipe = recipe_from_name(args.recipe or default_name(bundle.family))
    rows = list(rows_of(bundle, args.data, recipe, args.threads))
    print(markdown_of(rows))
    if args.into:
        write_into(args.into, markdown_of(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
