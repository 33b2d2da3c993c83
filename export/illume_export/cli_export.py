"""`illume export`: a bundle from a checkpoint, each stage compared with PyTorch before it is accepted."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from time import monotonic
from typing import Any

from illume_export.bundle_from_plan import StageResult, bundle_from_plan
from illume_export.checkpoint import Checkpoint
from illume_export.cli_checkpoint import add_checkpoint, checkpoint_from_args
from illume_export.families import random_checkpoint
from illume_export.plan import Plan, plan_from_checkpoint
from illume_runtime.cli.output import note, print_result
from illume_runtime.cli.parser import add_json, example
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.cli.table import megabytes, table
from illume_runtime.errors import UsageError
from illume_runtime.typed_json import json_from_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_checkpoint(parser)
    parser.add_argument(
        "--random-weights", metavar="MODEL", help="random weights in the size of illume-plus-3b or illume-plus-7b"
    )
    parser.add_argument("-o", "--output", required=True, metavar="BUNDLE", help="folder to write")
    parser.add_argument("--stages", metavar="A,B", help="build only these; the others are kept, if they are there")
    parser.add_argument(
        "--no-compare", action="store_true", help="do not run the stages: a large one takes 4 bytes a weight in memory"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, with sizes, and stop")
    parser.add_argument("--force", action="store_true", help="build every stage, also an unchanged one")
    add_json(parser)
    example(parser, "illume export assets/illume-tiny -o build/illume-tiny.bundle")


def run(args: argparse.Namespace) -> int:
    """Plan, then write the bundle."""
    start = monotonic()
    output = Path(args.output)
    only = [name.strip() for name in args.stages.split(",")] if args.stages is not None else []
    checkpoint = _checkpoint(args)
    if args.no_compare:
        checkpoint = dataclasses.replace(checkpoint, compared=False)
    plan = plan_from_checkpoint(checkpoint, output, only=only, force=args.force)
    if args.dry_run:
        print_result(args, plan_data(checkpoint, plan), plan_text(plan))
        return 0
    with ProgressBar() as bar:
        results = bundle_from_plan(
            checkpoint, plan, on_stage=bar.update, on_result=lambda result: note(args, result_line(result))
        )
    seconds = monotonic() - start
    num_bytes = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    data = {
        "bundle": str(output),
        "bytes": num_bytes,
        "seconds": round(seconds, 3),
        "stages": [
            {
                "name": r.spec.name,
                "action": r.action,
                "seconds": round(r.seconds, 3),
                "bytes": r.file_bytes,
                **json_from_value(r.spec),
            }
            for r in results
        ],
    }
    print_result(args, data, f"{output}: {len(results)} stages, {megabytes(num_bytes)}, {seconds:.1f} s")
    return 0


def _checkpoint(args: argparse.Namespace) -> Checkpoint:
    if args.random_weights is None:
        return checkpoint_from_args(args)
    if any((args.checkpoint, args.mllm, args.tokenizer, args.decoder)):
        raise UsageError("--random-weights takes no checkpoint; leave out one of the two")
    return random_checkpoint(args.random_weights)


def result_line(result: StageResult) -> str:
    """One line about a finished stage."""
    parity = result.spec.parity
    compared = (
        "not compared with PyTorch"
        if parity is None
        else f"error {parity.max_abs_error:.1e} (at most {parity.tolerance:.0e}, {parity.cases} cases)"
    )
    return (
        f"{result.spec.name:<16} {result.action:<7} {result.seconds:5.1f} s  {megabytes(result.file_bytes):>8}  "
        f"{compared}"
    )


def plan_data(checkpoint: Checkpoint, plan: Plan) -> dict[str, Any]:
    """The plan as a JSON-ready object."""
    return {
        "checkpoint": checkpoint.name,
        "bundle": str(plan.output),
        "replaces": plan.replaces,
        "stages": [
            {
                "name": planned.stage.name,
                "action": planned.action,
                "params": planned.params,
                "weight_bytes": planned.weight_bytes,
                "flops": json_from_value(planned.stage.flops),
                "opset": planned.stage.opset,
                "source_sha256": planned.source_sha256,
            }
            for planned in plan.stages
        ],
    }


def plan_text(plan: Plan) -> str:
    """The plan as a table for people."""
    rows = [
        [
            planned.stage.name,
            planned.action,
            f"{planned.params:,}",
            megabytes(planned.weight_bytes),
            f"{planned.stage.flops.count / 1e6:,.1f} per {planned.stage.flops.per}",
        ]
        for planned in plan.stages
    ]
    total = sum(planned.weight_bytes for planned in plan.stages if planned.action != "leave out")
    return (
        f"{table(['stage', 'action', 'parameters', 'weights', 'MFLOPs'], rows, left=2)}\n"
        f"{plan.output}: {megabytes(total)} of weights, nothing was written"
    )
