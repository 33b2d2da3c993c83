"""`illume build`: TensorRT engines of a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import monotonic
from typing import Any

from illume_export.engines.builder import (
    CAPABILITIES,
    MODULES,
    OnProgress,
    Options,
    PlannedEngine,
    build_engine,
    engine_plan,
)
from illume_export.engines.profiles import DEFAULT_BATCH, Wanted
from illume_runtime.bundle import Bundle
from illume_runtime.cli.output import note, print_result
from illume_runtime.cli.parser import add_json, count_up_to, example
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.cli.table import megabytes, table
from illume_runtime.device.protocol import Device
from illume_runtime.engine_record import EngineRecord, gpu_of
from illume_runtime.errors import EngineError, ExportError, IllumeError, MemoryLimitError, UsageError
from illume_runtime.limits import MAX_DRAW_BATCH


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder that `illume export` or `illume calibrate` made")
    parser.add_argument(
        "--target",
        choices=tuple(MODULES),
        required=True,
        help="what builds and runs the engines; each needs its package, pip install 'illume-rt[TARGET]'",
    )
    parser.add_argument(
        "--compute-capability", metavar="A,B", help="tensorrt-rtx: GPUs to build for, as 8.6,8.9; needs no GPU here"
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the engines (BUNDLE-engines/TARGET beside it)")
    parser.add_argument("--stages", metavar="A,B", help="build only these")
    parser.add_argument(
        "--batch",
        type=count_up_to(MAX_DRAW_BATCH),
        default=DEFAULT_BATCH,
        metavar="N",
        help=f"pictures at once at most: device memory grows with it ({DEFAULT_BATCH})",
    )
    parser.add_argument("--resolutions", metavar="A,B", help="pictures of these sizes only, as 256x256,512x512 (all)")
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
    wanted = Wanted(args.batch, tuple(_names(args.resolutions)))
    device = _device(args)
    gpu = _capabilities(args) if device is None else "{}.{}".format(*device.compute_capability)
    tuned_for = "" if device is None else gpu_of(device)
    options = Options(args.target, gpu, wanted, (args.memory_limit or 0) << 20, tuned_for)
    plan = engine_plan(bundle, output, options, _names(args.stages))
    if args.plan:
        print_result(args, {"engines": [_planned(engine) for engine in plan]}, _plan_text(plan))
        return 0
    start = monotonic()
    failed = _build(args, plan, options, device)
    if failed:
        kind = type(failed[0])
        raise kind(f"{len(failed)} of {len(plan)} engines failed, the others are kept: {'; '.join(map(str, failed))}")
    seconds = round(monotonic() - start, 1)
    data = [{"stage": p.stage, "cached": p.cached, "engine": str(p.path)} for p in plan]
    text = f"{output}: {len(plan)} engines for {options.recorded_gpu}, {seconds} s"
    print_result(args, {"engines": data, "seconds": seconds}, text)
    return 0


def _build(
    args: argparse.Namespace, plan: list[PlannedEngine], options: Options, device: Device | None
) -> list[IllumeError]:
    """Build what is not there; what went wrong, stage by stage."""
    failed: list[IllumeError] = []
    todo = [planned for planned in plan if not planned.cached]
    for i, planned in enumerate(todo):
        label = f"{planned.stage} {i + 1}/{len(todo)}"
        try:
            with ProgressBar() as bar:  # gone before the line about the engine, which would be written behind it
                record = build_engine(planned, options, _shown(bar, label), device)
        except (ExportError, EngineError, MemoryLimitError) as error:
            failed.append(error)
            continue
        note(args, _line(record, planned.path.stat().st_size))
    return failed


def _shown(bar: ProgressBar, label: str) -> OnProgress:
    """What shows the percent of one engine, and the time that it still takes."""
    return lambda stage, done, total: bar.update(label, done, total)


def _line(record: EngineRecord, num_bytes: int) -> str:
    parts = [f"{record.stage:<16} {megabytes(num_bytes):>9}  {len(record.layers)} layers"]
    if record.activation_bytes:
        parts.append(f"works in {megabytes(max(record.activation_bytes))}")
    expected = record.attentions * max(len(record.profiles), 1)
    if record.fused < expected:
        parts.append(f"{expected - record.fused} of {expected} attentions not fused")
    return ", ".join(parts)


def _planned(engine: PlannedEngine) -> dict[str, Any]:
    return {
        "stage": engine.stage,
        "cached": engine.cached,
        "engine": str(engine.path),
        "precision": engine.precision,
        "weight_bytes": engine.weight_bytes,
        "host_bytes": engine.host_bytes,
        "device_bytes": engine.device_bytes,
        "profiles": engine.profiles,
    }


def _plan_text(plan: list[PlannedEngine]) -> str:
    rows = [
        [
            p.stage,
            "keep" if p.cached else "build",
            p.precision,
            megabytes(p.weight_bytes),
            megabytes(p.host_bytes),
            megabytes(p.device_bytes) if p.device_bytes else "none",
            str(p.path),
        ]
        for p in plan
    ]
    titles = ["stage", "action", "precision", "weights", "memory to build", "of the GPU", "engine"]
    return table(titles, rows, left=3)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _capabilities(args: argparse.Namespace) -> str:
    """Of the GPUs that TensorRT for RTX builds for: sorted, joined by commas."""
    names = _names(args.compute_capability) or list(CAPABILITIES[1:])
    unknown = [name for name in names if name not in CAPABILITIES]
    if unknown:
        known = ", ".join(CAPABILITIES)
        raise UsageError(f"--compute-capability: TensorRT for RTX has no {unknown[0]!r}; it has {known}")
    return ",".join(sorted(set(names), key=float))


def _device(args: argparse.Namespace) -> Device | None:
    """The GPU here, for which TensorRT builds; TensorRT for RTX needs none."""
    if args.target == "tensorrt-rtx":
        return None
    if args.compute_capability:
        raise UsageError("--compute-capability is for --target tensorrt-rtx; TensorRT builds for the GPU that is here")
    from illume_runtime.device.opening import open_device

    return open_device()
