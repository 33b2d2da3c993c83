"""`illume calibrate`: an int8 bundle from a float one, with scales from real requests and figures of what it cost."""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from illume_calibration.bundle_from_recipe import Source, bundle_from_recipe, check_float
from illume_calibration.cli_gate import write_report
from illume_calibration.mixed_precision import recipe_under_budget, recipe_under_size
from illume_calibration.observing import Observation, observe
from illume_calibration.quality import Judgement, judge
from illume_calibration.ranges import METHODS
from illume_calibration.recipe import (
    Recipe,
    check_stages,
    default_name,
    recipe_from_name,
    weights_alone,
    with_overrides,
)
from illume_calibration.report import text_from_damages, text_from_quality
from illume_calibration.requests import HELD_OUT, Request, data_sha256, requests_from_file
from illume_calibration.sensitivity import Damage
from illume_calibration.target_size import target_size
from illume_runtime.bundle import Bundle
from illume_runtime.cli.output import check_output, note, print_result
from illume_runtime.cli.parser import add_json, count_up_to, example, number_from, seed
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.cli.table import megabytes, table
from illume_runtime.errors import QualityError, UsageError
from illume_runtime.files import sha256_of
from illume_runtime.manifest import MANIFEST_NAME
from illume_runtime.quantization import NO_DATA, CalibrationData, Quality, StageQuantization
from illume_runtime.typed_json import json_from_value

SENSITIVITY_REQUESTS = 24  # of those that calibrate; the gate's own are not looked at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("bundle", metavar="BUNDLE", help="float bundle, as `illume export` made it")
    parser.add_argument("--data", metavar="FILE.jsonl", help="requests, one JSON object a line")
    parser.add_argument(
        "--weights-only",
        action="store_true",
        help="round the weights of decoder, heads and embeddings, and nothing else: needs no --data, which judges then",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of the new bundle")
    parser.add_argument("--recipe", metavar="NAME", help="a shipped recipe or a TOML file (that of the family)")
    parser.add_argument("--method", choices=METHODS, help="how ranges are found (the recipe's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change the recipe; may be repeated"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--max-drop",
        type=number_from(0, 100),
        metavar="PERCENT",
        help="relieve layers, the most sensitive first, until at most so many percent of the tokens change",
    )
    budget.add_argument(
        "--target-size",
        type=target_size,
        metavar="SIZE",
        help="leave layers in float, the dearest first, as long as the bundle stays within 16MB, 0.3x of float, ...",
    )
    parser.add_argument("--no-gate", action="store_true", help="do not compare the result with the float bundle")
    parser.add_argument("--report", metavar="FILE.html", help="write the figures of all layers as a page")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="seed of what is sampled for the gate (0)")
    parser.add_argument("--threads", type=count_up_to(1024), metavar="T", help="threads of a stage (all usable cores)")
    add_json(parser)
    example(
        parser,
        "illume calibrate build/illume-tiny.bundle --data assets/calibration/requests.jsonl "
        "-o build/illume-tiny-int8.bundle",
    )


def run(args: argparse.Namespace) -> int:
    """Observe, quantize, judge, write. The bundle is written whatever the gate says; exit code 6 if it is under a bar.

    Statistics are kept beside the output until it is written: after an interruption the same command goes on.
    """
    output = Path(args.output)
    bundle = Bundle.open(args.bundle)
    name = args.recipe or default_name(bundle.family)
    recipe = recipe_from_name(name)
    check_stages(name, recipe, args.set, bundle.stages)
    if args.weights_only:
        recipe = weights_alone(recipe, bundle.stages)
    recipe = with_overrides(recipe, args.set, args.method)
    check_float(bundle)
    if output.exists():
        raise UsageError(f"{output} exists already; remove it, or choose another name")
    if args.report:
        if args.no_gate:
            raise UsageError("--report shows what the gate measures; leave --no-gate out")
        check_output(Path(args.report))
    if args.data is None:
        return _without_data(args, bundle, recipe, output)
    data = Path(args.data)
    calibrating, judging = _split(list(requests_from_file(data)), data, gate=not args.no_gate)
    work = output.with_name(f"{output.name}.calibration")
    gate = _Gate(args, bundle, recipe, judging, data_sha256(data))
    with ProgressBar() as bar:
        found = _observed(args, bundle, calibrating, work, gate.digest, bar)
        about = CalibrationData(data.name, gate.digest, found.num_requests, len(found.skipped), args.seed)
        source = Source(bundle, found.statistics, about)
        if args.target_size is not None:
            gate.recipe, gate.damages = recipe_under_size(
                source, recipe, calibrating[:SENSITIVITY_REQUESTS], args.target_size, args.threads, bar.update
            )
        if args.max_drop is not None:
            sample = [request for request in calibrating if request.task != "reconstruct"][:SENSITIVITY_REQUESTS]
            gate.recipe, gate.damages = recipe_under_budget(
                source, recipe, sample, args.max_drop / 100, args.threads, bar.update
            )
        made = bundle_from_recipe(
            source, gate.recipe, output, None if args.no_gate else partial(gate.judge, bar), bar.update
        )
    shutil.rmtree(work)
    _print(args, bundle, made, gate, found)
    if gate.judgement is not None and gate.judgement.quality.failed:
        failed = ", ".join(gate.judgement.quality.failed)
        print(f"illume calibrate: error: {output} is written, but under the bar: {failed}", file=sys.stderr)
        return QualityError.exit_code
    return 0


def _without_data(args: argparse.Namespace, bundle: Bundle, recipe: Recipe, output: Path) -> int:
    """Weights alone, which no gate has judged. Raises UsageError where that is not what is asked for."""
    needing = [name for name in ("max_drop", "target_size", "report") if getattr(args, name) is not None]
    if needing or not args.weights_only:
        what = f"--{needing[0].replace('_', '-')} needs" if needing else "ranges of activations need"
        raise UsageError(f"--data is missing: {what} requests; weights alone do not: --weights-only")
    with ProgressBar() as bar:
        source = Source(bundle, {}, CalibrationData(NO_DATA, "", 0, 0, args.seed))
        made = bundle_from_recipe(source, recipe, output, None, bar.update)
    _print(args, bundle, made, None, None)
    note(args, f"not judged; with requests: illume verify {output} --quality {args.bundle} --data FILE.jsonl")
    return 0


def _split(requests: list[Request], data: Path, *, gate: bool) -> tuple[list[Request], list[Request]]:
    """Those that calibrate and those that judge."""
    if not gate:
        return requests, []
    judging = [request for number, request in enumerate(requests, start=1) if number % HELD_OUT == 0]
    if not judging:
        raise UsageError(
            f"{data}: has {len(requests)} requests, expected at least {HELD_OUT}: every fourth one is kept to judge by "
            "(--no-gate uses all for calibration)"
        )
    return [request for number, request in enumerate(requests, start=1) if number % HELD_OUT], judging


def _observed(
    args: argparse.Namespace, bundle: Bundle, requests: list[Request], work: Path, digest: str, bar: ProgressBar
) -> Observation:
    identity = f"{sha256_of(bundle.path / MANIFEST_NAME)} {digest} {len(requests)}"
    on_request = partial(bar.update, "calibrating")
    return observe(
        bundle, requests, work, identity=identity, data=Path(args.data), threads=args.threads, on_request=on_request
    )


@dataclass(slots=True)
class _Gate:
    """Judges the bundle before it is moved into place, and keeps what it found for the report."""

    args: argparse.Namespace
    bundle: Bundle
    recipe: Recipe
    requests: list[Request]
    digest: str
    judgement: Judgement | None = None
    damages: list[Damage] = field(default_factory=list)

    def judge(self, bar: ProgressBar, quantized: Bundle) -> Quality:
        self.judgement = judge(
            self.bundle,
            quantized,
            self.requests,
            data=Path(self.args.data),
            data_sha256=self.digest,
            bars=self.recipe.bars,
            seed=self.args.seed,
            threads=self.args.threads,
            on_step=bar.update,
        )
        return self.judgement.quality


def _print(
    args: argparse.Namespace, bundle: Bundle, made: Bundle, gate: _Gate | None, found: Observation | None
) -> None:
    judgement = None if gate is None else gate.judgement
    quantization = made.manifest.quantization
    assert quantization is not None
    rows = [_cells(name, stage, bundle, made) for name, stage in quantization.stages.items()]
    text = table(["stage", "weights", "activations", "layers", "weights alone", "float", "size", "before"], rows)
    text += f"\n\n{made.path}: recipe {quantization.recipe}"
    if found is not None:
        text += f", {quantization.method}, {found.num_requests} requests"
        if found.skipped:
            text += f"; {len(found.skipped)} skipped, the first: {found.skipped[0]}"
    if judgement is not None:
        text += "\n\n" + text_from_quality(judgement.quality, judgement.layers)
    damages = [] if gate is None else gate.damages
    if damages:
        text += "\n\n" + text_from_damages(damages)
    data = {"verb": "calibrate", "bundle": str(made.path), "quantization": json_from_value(quantization)}
    if judgement is not None:
        data["layers"] = [json_from_value(layer) for layer in judgement.layers]
    if damages:
        data["sensitivity"] = [json_from_value(damage) for damage in damages]
    print_result(args, data, text)
    if args.report and judgement is not None:
        write_report(args, f"{made.name}, {quantization.recipe}", judgement, damages)


def _cells(name: str, stage: StageQuantization, bundle: Bundle, made: Bundle) -> list[str]:
    sizes = [megabytes(_bytes_of(b, name)) for b in (made, bundle)]
    counts = [str(stage.num_layers), str(len(stage.weight_only)), str(len(stage.kept))]
    return [name, stage.weights, stage.activations, *counts, *sizes]


def _bytes_of(bundle: Bundle, stage: str) -> int:
    """Of its graph and of the weights beside it."""
    file, files = bundle.stage(stage).file, bundle.manifest.files
    return sum(files[name].num_bytes for name in (file, f"{file}.data") if name in files)
