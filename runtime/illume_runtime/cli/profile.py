"""`illume profile`: where the milliseconds of a request go, and how far each stage is from the machine's limits."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from illume_runtime.cli.output import check_output, note, print_result
from illume_runtime.cli.parser import QUALITIES, add_running, count_from_zero, count_up_to, example
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.cli.running import Stopwatch, pipeline_from_args
from illume_runtime.cli.table import megabytes, table
from illume_runtime.machine import MachineLimits, measured_limits, peak_memory_bytes, this_machine, usable_cores
from illume_runtime.profile.measure import KINDS, cold_start_ms, measure, request_of
from illume_runtime.trace import Tracer

if TYPE_CHECKING:
    from PIL.Image import Image

    from illume_runtime.profile.report import RequestReport, StageRow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_running(parser)
    parser.add_argument(
        "--requests", type=_kinds, default=("describe", "draw", "edit"), metavar="LIST", help="describe,draw,edit"
    )
    parser.add_argument("--repeat", type=count_up_to(1000), default=5, metavar="N", help="measured requests (5)")
    parser.add_argument("--warm-up", type=count_from_zero, default=1, metavar="N", help="requests before those (1)")
    parser.add_argument("--cold-starts", type=count_from_zero, default=3, metavar="N", help="new processes (3)")
    parser.add_argument("--size", metavar="WxH", help="of the picture to draw, as `illume info` lists them (the first)")
    parser.add_argument("--quality", choices=QUALITIES, help="of pictures, as for `illume draw`")
    parser.add_argument("--max-tokens", type=count_up_to(4096), metavar="N", help="longest description")
    parser.add_argument("--image", metavar="IMAGE", help="picture to describe and edit (a built-in one)")
    example(parser, "illume profile build/illume-tiny.bundle --trace build/trace.json")


def run(args: argparse.Namespace) -> int:
    """Measure and print the report."""
    if args.trace:
        check_output(Path(args.trace))
    from illume_runtime.profile.report import report_from_spans

    image = _image(args.image)
    tracer = Tracer()
    stopwatch = Stopwatch()
    pipeline = pipeline_from_args(args, tracer)
    load_ms = stopwatch.lap_ms()
    tracer.clear()
    with ProgressBar() as bar:
        for kind in args.requests:
            request = request_of(
                kind, pipeline, tracer, image, size=args.size, quality=args.quality, max_tokens=args.max_tokens
            )
            on_step = partial(bar.update, kind)
            measure(kind, request, tracer, repeats=args.repeat, warm_up=args.warm_up, on_step=on_step)
    peak_bytes = peak_memory_bytes()
    cold_ms = _cold_starts(args, image)
    limits = measured_limits(args.threads or usable_cores())
    reports = [report_from_spans(kind, tracer.spans, limits) for kind in args.requests]
    machine = this_machine()
    result = {
        "verb": "profile",
        "bundle": pipeline.bundle.name,
        "device": args.device,
        "machine": asdict(machine),
        "limits": asdict(limits),
        "load_ms": load_ms,
        "cold_start_ms": cold_ms,
        "peak_memory_bytes": peak_bytes,
        "requests": [asdict(report) for report in reports],
    }
    power = f", power mode {machine.power_mode}" if machine.power_mode else ""
    heading = (
        f"{pipeline.bundle.name} on {machine.cpu}{power}, {limits.threads} threads: "
        f"reads {limits.memory_bytes_per_s / 1e9:.1f} GB/s, "
        f"computes {limits.float32_flops_per_s / 1e9:.1f} GFLOP/s in float32 (measured)\n"
        f"load {load_ms:.0f} ms, peak memory {megabytes(peak_bytes)}"
    )
    if cold_ms:
        heading += f", process start to first token {median(cold_ms):.0f} ms (median of {len(cold_ms)})"
    print_result(args, result, "\n\n".join([heading, *(report_text(report, limits) for report in reports)]))
    if args.trace:
        from illume_runtime.profile.trace_file import write_trace

        write_trace(args.trace, tracer.spans, {"command": "illume profile", "bundle": str(args.bundle)})
        note(args, f"wrote {args.trace}: open it in ui.perfetto.dev")
    return 0


def report_text(report: RequestReport, limits: MachineLimits) -> str:
    """The table of one kind of request."""
    header = ["stage", "calls", "each ms", "p90", "sum ms", "share", "tokens/s", "GB/s", "GFLOP/s", "of limit"]
    rows = [_cells(row) for row in report.rows]
    title = (
        f"{report.name}: {report.median_ms:.1f} ms (median of {report.repeats}), p90 {report.p90_ms:.1f} ms; "
        f"outside the stages {report.other_share:.1%}"
    )
    text = f"{title}\n{table(header, rows)}"
    if report.device_rows:
        busy = sum(row.share for row in report.device_rows)
        cells = [_cells(row)[:-1] for row in report.device_rows]
        text += f"\non the GPU, {busy:.1%} of the time\n{table(header[:-1], cells)}"
    return text


def _cells(row: StageRow) -> list[str]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    return [
        row.name,
        f"{row.calls_per_request:g}",
        f"{row.median_ms:.3f}",
        f"{row.p90_ms:.3f}",
        f"{row.request_ms:.2f}",
        f"{row.share:.1%}",
        number(row.tokens_per_s),
        number(row.gb_per_s),
        number(row.gflop_per_s),
        "" if row.limit_share is None else f"{row.limit_share:.0%} {row.bound_by}",
    ]


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(text.split(",")))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no request {unknown[0]!r}; choose from {','.join(KINDS)}")
    return kinds


def _image(path: str | None) -> Image:
    if path is None:
        from illume_runtime.profile.picture import measuring_picture

        return measuring_picture()
    from illume_runtime.images import image_from_file

    return image_from_file(path)


def _cold_starts(args: argparse.Namespace, image: Image) -> list[float]:
    if not args.cold_starts:
        return []
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "picture.png")
        image.save(path)
        command = ["describe", args.bundle, path, "--device", args.device]
        if args.threads:
            command += ["--threads", str(args.threads)]
        return [round(time_ms, 1) for time_ms in cold_start_ms(command, repeats=args.cold_starts)]
