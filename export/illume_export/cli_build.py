"""`illume build`: TensorRT engines of a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import monotonic

from illume_export.engines.builder import CAPABILITIES, MODULES, build_engine, engine_plan
from illume_runtime.bundle import Bundle
from illume_runtime.cli.output import note, print_result
from illume_runtime.cli.parser import add_json, count_up_to, example
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.cli.table import megabytes, table
from illume_runtime.errors import ExportError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder that `illume export` or `illume calibrate` made")
    parser.add_argument("--target", choices=tuple(MODULES), required=True, help="what builds and runs the engines")
    parser.add_argument(
        "--compute-capability", metavar="A,B", help="tensorrt-rtx: GPUs to build for, as 8.6,8.9; needs no GPU here"
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the engines (BUNDLE-engines/TARGET beside it)")
    parser.add_argument("--stages", metavar="A,B", help="build only these")
    parser.add_argument(
        "--memory-limit", type=count_up_to(1 << 20), metavar="MB", help="device memory that a layer may work in"
    )
    parser.add_argument("--plan", action="store_true", help="print what would be built, and stop")
    add_json(parser)
    example(parser, "illume build build/illume-tiny.bundle --target tensorrt-rtx --compute-capability 8.6,8.9 --plan")


def run(args: argparse.Namespace) -> int:
    """Build what is not built yet; engines that succeed are kept where others fail."""
    bundle = Bundle.open(args.bundle)
    folder = bundle.path.resolve()
    output = Path(args.output) if args.output else folder.with_name(f"{folder.name}-engines") / args.target
    if output.resolve().is_relative_to(folder):
        raise UsageError(f"--output {output} is inside the bundle, whose files are all listed; choose another folder")
    stages = [name.strip() for name in args.stages.split(",")] if args.stages else []
    workspace = (args.memory_limit or 0) << 20
    plan = engine_plan(bundle, output, args.target, _gpu(args), stages, workspace)
    if args.plan:
        rows = [[p.stage, "keep" if p.cached else "build", megabytes(p.weight_bytes), str(p.path)] for p in plan]
        data = [{"stage": p.stage, "cached": p.cached, "engine": str(p.path), "profiles": p.profiles} for p in plan]
        print_result(args, {"engines": data}, table(["stage", "action", "weights", "engine"], rows, left=2))
        return 0
    start, failed = monotonic(), []
    with ProgressBar() as bar:
        for planned in plan:
            if planned.cached:
                continue
            try:
                record = build_engine(planned, args.target, workspace, bar.update)
            except ExportError as error:
                failed.append(str(error))
                continue
            size = megabytes(planned.path.stat().st_size)
            note(args, f"{planned.stage:<16} {size:>8}  {len(record.layers)} layers")
    if failed:
        raise ExportError(f"{len(failed)} of {len(plan)} engines failed, the others are kept: {'; '.join(failed)}")
    seconds = round(monotonic() - start, 1)
    data = [{"stage": p.stage, "cached": p.cached, "engine": str(p.path)} for p in plan]
    print_result(
        args, {"engines": data, "seconds": seconds}, f"{output}: {len(plan)} engines for {_gpu(args)}, {seconds} s"
    )
    return 0


def _gpu(args: argparse.Namespace) -> str:
    """Compute capabilities, sorted, joined by commas; for TensorRT that of the GPU here."""
    if args.target == "tensorrt-rtx":
        names = [name.strip() for name in (args.compute_capability or ",".join(CAPABILITIES[1:])).split(",")]
        unknown = [name for name in names if name not in CAPABILITIES]
        if unknown:
            known = ", ".join(CAPABILITIES)
            raise UsageError(f"--compute-capability: TensorRT for RTX has no {unknown[0]!r}; it has {known}")
        return ",".join(sorted(set(names), key=float))
    if args.compute_capability:
        raise UsageError("--compute-capability is for --target tensorrt-rtx; TensorRT builds for the GPU that is here")
    from illume_runtime.device.driver import compute_capability

    return compute_capability()
