"""`illume eval`: a bundle put to the world's tests, its pictures judged by a checker that knows nothing of models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from illume_runtime.cli.drawing import options_given
from illume_runtime.cli.output import check_output, note, print_result
from illume_runtime.cli.parser import add_image_sampling, add_running, count_from_zero, count_up_to, example
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.cli.running import Stopwatch, running, sampling_from_args
from illume_runtime.cli.table import table
from illume_runtime.errors import QualityError, UsageError
from illume_runtime.files import atomic_write
from illume_runtime.limits import MAX_DRAW_BATCH, MAX_STEPS
from illume_training.evaluation.failures import FailureSheet
from illume_training.evaluation.figures import TARGETS, Figure, Tally
from illume_training.evaluation.tasks import TASKS, run_task
from illume_training.world import Split

if TYPE_CHECKING:
    from illume_runtime.pipeline import Pipeline

MAX_CASES = 1_000_000
BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_running(parser)
    parser.add_argument("--tasks", type=_tasks, default=TASKS, metavar="LIST", help=f"{','.join(TASKS)} (all)")
    parser.add_argument("--limit", type=count_up_to(MAX_CASES), default=500, metavar="N", help="cases per task (500)")
    parser.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="scenes: tune on validation, report on test (test)",
    )
    parser.add_argument(
        "--held-out",
        type=count_from_zero,
        metavar="N",
        help="cases per task with combinations that training never held (a fifth of --limit; 0 with validation)",
    )
    parser.add_argument(
        "--batch", type=count_up_to(MAX_DRAW_BATCH), default=BATCH, metavar="N", help=f"cases at once ({BATCH})"
    )
    parser.add_argument("--failures", metavar="OUT.png", help="write a sheet of failures")
    parser.add_argument("--require-targets", action="store_true", help="exit code 6 if a target is missed")
    add_image_sampling(parser, max_steps=MAX_STEPS)
    example(parser, "illume eval build/illume-tiny.bundle --limit 20 --failures build/failures.png")


def run(args: argparse.Namespace) -> int:
    """Run the tasks, print every figure; exit code 6 if targets are required and one is missed."""
    if args.failures:
        if not args.failures.lower().endswith(".png"):
            raise UsageError(f"--failures {args.failures!r} does not end in .png; the sheet is written as PNG")
        check_output(Path(args.failures))
    num_held_out = args.held_out
    if num_held_out is None:
        num_held_out = -(-args.limit // 5) if args.split == "test" else 0
    sizes: dict[Split, int] = {args.split: args.limit, "held_out": num_held_out}
    tally, sheet = Tally(), FailureSheet()
    with running(args, "eval") as (pipeline, tracer):
        seconds = {}
        for task in args.tasks:
            stopwatch = Stopwatch()
            with tracer.span(task, "request"):
                _run_task(task, pipeline, sizes, args, tally, sheet)
            seconds[task] = round(stopwatch.lap_ms() / 1e3, 3)
    figures = tally.figures()
    missed = [figure for figure in figures if figure.is_met is False]
    if args.failures:
        with atomic_write(args.failures) as temporary:
            sheet.image().save(temporary, "PNG", optimize=True)
        note(args, f"wrote {args.failures}")
    result: dict[str, Any] = {
        "verb": "eval",
        "bundle": pipeline.bundle.name,
        "split": args.split,
        "limit": args.limit,
        "held_out": num_held_out,
        "batch": args.batch,
        "seed": args.seed,
        "options": options_given(args),
        "seconds": seconds,
        "figures": [figure.data() for figure in figures],
        "targets_met": not missed,
    }
    print_result(args, result, report_text(figures))
    if missed and args.require_targets:
        misses = "; ".join(f"{_title(f)} {f.share:.1%} of {f.num_cases}, expected {f.target:.0%}" for f in missed)
        print(f"illume eval: error: below the target: {misses}", file=sys.stderr)
        return QualityError.exit_code
    return 0


def _run_task(
    task: str, pipeline: Pipeline, sizes: dict[Split, int], args: argparse.Namespace, tally: Tally, sheet: FailureSheet
) -> None:
    from illume_runtime.pipeline import ImageSampling

    sampling = sampling_from_args(ImageSampling, args)
    done, total = 0, sum(sizes.values())
    with ProgressBar() as bar:
        bar.update(task, done, total)
        for split, num_cases in sizes.items():
            for outcomes in run_task(
                task, pipeline, split, num_cases=num_cases, batch=args.batch, seed=args.seed, sampling=sampling
            ):
                for outcome in outcomes:
                    tally.add(task, split, outcome.checks)
                    sheet.add(f"{task}, {_name(split)}", outcome)
                done += len(outcomes)
                bar.update(task, done, total)


def report_text(figures: list[Figure]) -> str:
    """The table of all figures."""
    header = ["task", "right", "95 % interval", "cases", "target", ""]
    return table(header, [_cells(figure) for figure in sorted(figures, key=_order)])


def _order(figure: Figure) -> tuple[bool, int, int, str]:
    """Held-out combinations last; in a task, what has a target first."""
    aims = list(TARGETS)
    aim = (figure.task, figure.aspect)
    place = aims.index(aim) if aim in aims else len(aims)
    return figure.split == "held_out", TASKS.index(figure.task), place, figure.aspect


def _cells(figure: Figure) -> list[str]:
    low, high = figure.interval
    return [
        _title(figure),
        f"{figure.share:.1%}",
        f"{low:.1%} to {high:.1%}",
        str(figure.num_cases),
        "" if figure.target is None else f"{figure.target:.0%}",
        {None: "", True: "met", False: "MISSED"}[figure.is_met],
    ]


def _title(figure: Figure) -> str:
    title = f"{figure.task}: {'all right' if figure.aspect == 'all' else figure.aspect}"
    return f"{title} ({_name(figure.split)})" if figure.split == "held_out" else title


def _name(split: str) -> str:
    return split.replace("_", " ")


def _tasks(text: str) -> tuple[str, ...]:
    tasks = tuple(dict.fromkeys(text.split(",")))
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no task {unknown[0]!r}; choose from {','.join(TASKS)}")
    return tasks
