"""`illume verify`: a bundle against the checkpoint that it was made from, or a quantized one against the float one."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from illume_calibration.cli_gate import add_gate, run_gate
from illume_export.agreement import Agreement, agreements
from illume_export.checkpoint import Checkpoint
from illume_export.cli_checkpoint import add_checkpoint, checkpoint_from_args
from illume_export.families import family_of
from illume_export.onnx_weights import stored_array
from illume_export.parity import max_abs_error, run_from_onnx
from illume_runtime.bundle import Bundle
from illume_runtime.cli.output import print_result
from illume_runtime.cli.parser import add_json, example
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.cli.table import table
from illume_runtime.errors import QualityError, UsageError
from illume_runtime.pipeline import Pipeline

REQUESTS_PER_KIND = 50
KINDS = ("describe", "draw", "edit")


@dataclass(frozen=True, slots=True)
class StageError:
    """The largest absolute error of a stage or table, and what it may be."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Within the tolerance; NaN is not."""
        return self.error <= self.tolerance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder that `illume export` made")
    add_checkpoint(parser)
    parser.add_argument(
        "--requests",
        type=int,
        default=REQUESTS_PER_KIND,
        metavar="N",
        help=f"questions, drawings and edits to compare token by token, N each ({REQUESTS_PER_KIND}; 0: none)",
    )
    add_gate(parser)
    add_json(parser)
    example(parser, "illume verify build/illume-tiny.bundle assets/illume-tiny")


def run(args: argparse.Namespace) -> int:
    """Check the files, every stage and table, then the tokens of whole requests. Exit code 6 if anything differs."""
    if args.quality is not None:
        return run_gate(args)
    if args.checkpoint is None and args.mllm is None:
        raise UsageError("CHECKPOINT is missing; name the checkpoint to compare with, or a float bundle with --quality")
    if args.requests < 0:
        raise UsageError(f"--requests: expected 0 or more, got {args.requests}")
    path = Path(args.bundle)
    bundle = Bundle.open(path, verify=True)
    if bundle.manifest.quantization is not None:
        raise UsageError(f"{path} is quantized: compare it with the float bundle: illume verify {path} --quality FLOAT")
    checkpoint = checkpoint_from_args(args)
    stages = [stage for stage in checkpoint.stages if stage.name in bundle.stages]
    total = len(stages) + len(KINDS) * args.requests
    differences, requests = _differences_of_tables(bundle, checkpoint), []
    with ProgressBar() as bar:
        for done, stage in enumerate(stages):
            bar.update(stage.name, done, total)
            errors = stage.errors(run_from_onnx(path / "stages" / f"{stage.name}.onnx"))
            differences.append(StageError(stage.name, max(errors), stage.tolerance))
        if args.requests:
            size = checkpoint.specification["preprocessing"].get("image_size", [None])[0]
            reference = family_of(checkpoint.family).pipeline_from_checkpoint(checkpoint)
            for agreement in agreements(Pipeline.load(bundle), reference, size, args.requests):
                requests.append(agreement)
                bar.update("tokens", len(stages) + len(requests), total)
    failed = [d.name for d in differences if not d.ok] + [f"{r.kind}: {r.text}" for r in requests if not r.ok]
    print_result(args, _data(path, differences, requests), text_of(differences, requests))
    if failed:
        print(
            f"illume verify: error: {path} differs from {args.checkpoint or args.mllm} in: {'; '.join(failed)}",
            file=sys.stderr,
        )
        return QualityError.exit_code
    return 0


def _differences_of_tables(bundle: Bundle, checkpoint: Checkpoint) -> list[StageError]:
    found = []
    for name, tensor in checkpoint.tables.items():
        error = max_abs_error(np.asarray(bundle.table(name)), stored_array(tensor, checkpoint.precision))
        found.append(StageError(f"table {name}", error, 0.0))
    return found


def _data(path: Path, differences: list[StageError], requests: list[Agreement]) -> dict[str, Any]:
    return {
        "bundle": str(path),
        "ok": all(d.ok for d in differences) and all(r.ok for r in requests),
        "differences": [
            {"name": d.name, "max_abs_error": d.error, "tolerance": d.tolerance, "ok": d.ok} for d in differences
        ],
        "requests": [
            {
                "kind": r.kind,
                "text": r.text,
                "agreeing": r.agreeing,
                "total": r.total,
                "first_difference": asdict(r.difference) | {"tie": r.difference.tie} if r.difference else None,
                "ok": r.ok,
            }
            for r in requests
        ],
    }


def text_of(differences: list[StageError], requests: list[Agreement]) -> str:
    """What the verb prints: the errors of stages and tables, then the agreement of tokens and each difference."""
    rows = [[d.name, f"{d.error:.1e}", f"{d.tolerance:.0e}", "ok" if d.ok else "DIFFERS"] for d in differences]
    text = table(["compared with PyTorch", "largest error", "at most", ""], rows)
    if not requests:
        return text
    rows = []
    for kind in KINDS:
        ours = [r for r in requests if r.kind == kind]
        equal, tied = (sum(r.difference is None for r in ours), sum(r.difference is not None and r.ok for r in ours))
        tokens = f"{sum(r.agreeing for r in ours)}/{sum(r.total for r in ours)}"
        rows.append([kind, f"{equal}/{len(ours)}", tokens, str(tied), str(len(ours) - equal - tied)])
    text += "\n\n" + table(["greedy tokens", "requests equal", "tokens equal", "ties", "DIFFER"], rows)
    return "\n".join([text, *(_difference(r) for r in requests if r.difference is not None)])


def _difference(found: Agreement) -> str:
    d = found.difference
    assert d is not None
    got, expected = ("the end" if token is None else token for token in (d.got, d.expected))
    what = "a tie" if d.tie else "DIFFERS"
    line = f"{found.kind} {found.text!r}: {what} at token {d.position} of {found.total}: {got}, PyTorch {expected}"
    return line if d.margin is None else f"{line}, which was ahead by {d.margin:.2g} in logits"
