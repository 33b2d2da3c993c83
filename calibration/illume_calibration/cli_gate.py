"""`illume verify --quality`: a quantized bundle beside the float one that it was made from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from illume_calibration.quality import Judgement, judge
from illume_calibration.ranking import svg_from_damages
from illume_calibration.recipe import recipe_from_name
from illume_calibration.report import html_from_quality, text_from_quality
from illume_calibration.requests import data_sha256, requests_from_file
from illume_calibration.sensitivity import Damage
from illume_runtime.bundle import Bundle
from illume_runtime.cli.output import check_output, note, print_result
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.errors import QualityError, UsageError
from illume_runtime.files import atomic_write
from illume_runtime.quantization import Bars
from illume_runtime.typed_json import json_from_value


def add_gate(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the gate."""
    parser.add_argument("--quality", metavar="FLOAT_BUNDLE", help="compare a quantized bundle with the float one")
    parser.add_argument("--data", metavar="FILE.jsonl", help="with --quality: requests to judge by")
    parser.add_argument("--bars", metavar="RECIPE", help="with --quality: a recipe whose bars count (the bundle's own)")
    parser.add_argument(
        "--report", metavar="FILE.html", help="with --quality: write the figures of all layers as a page"
    )
    parser.add_argument(
        "--threads", type=int, metavar="T", help="with --quality: threads of a stage (all usable cores)"
    )


def run_gate(args: argparse.Namespace) -> int:
    """Compare, print, and give back 6 if a figure is under its bar. The bundle is not changed."""
    if args.data is None:
        raise UsageError("--quality: name requests to judge by with --data FILE.jsonl")
    if args.report:
        check_output(Path(args.report))
    reference, quantized = Bundle.open(args.quality), Bundle.open(args.bundle)
    data = Path(args.data)
    with ProgressBar() as bar:
        found = judge(
            reference,
            quantized,
            list(requests_from_file(data)),
            data=data,
            data_sha256=data_sha256(data),
            bars=_bars(args, quantized),
            seed=0,
            threads=args.threads,
            on_step=bar.update,
        )
    result = {
        "verb": "verify",
        "bundle": str(quantized.path),
        "float_bundle": str(reference.path),
        "ok": not found.quality.failed,
        "quality": json_from_value(found.quality),
        "layers": [json_from_value(layer) for layer in found.layers],
    }
    print_result(args, result, text_from_quality(found.quality, found.layers))
    if args.report:
        write_report(args, quantized.name, found)
    if found.quality.failed:
        failed = ", ".join(found.quality.failed)
        print(f"illume verify: error: {quantized.path} is under the bar: {failed}", file=sys.stderr)
        return QualityError.exit_code
    return 0


def write_report(args: argparse.Namespace, title: str, found: Judgement, damages: Sequence[Damage] = ()) -> None:
    """The page that `--report` asks for; the ranking, if there is one, as a picture beside it too."""
    with atomic_write(args.report) as temporary:
        temporary.write_text(html_from_quality(title, found.quality, found.layers, damages), encoding="utf-8")
    note(args, f"wrote {args.report}")
    if damages:
        picture = Path(args.report).with_suffix(".svg")
        with atomic_write(picture) as temporary:
            temporary.write_text(svg_from_damages(damages), encoding="utf-8")
        note(args, f"wrote {picture}")


def _bars(args: argparse.Namespace, quantized: Bundle) -> Bars:
    if args.bars is not None:
        return recipe_from_name(args.bars).bars
    quantization = quantized.manifest.quantization
    return Bars() if quantization is None or quantization.quality is None else quantization.quality.bars
