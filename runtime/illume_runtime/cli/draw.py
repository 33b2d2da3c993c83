"""`illume draw`: pictures from text."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from illume_runtime.cli.drawing import draw_to_files
from illume_runtime.cli.output import add_output, add_preview
from illume_runtime.cli.parser import add_image_sampling, add_running, count_up_to, example, number_from
from illume_runtime.errors import UsageError
from illume_runtime.limits import MAX_DRAW_BATCH, MAX_STEPS

if TYPE_CHECKING:
    from illume_runtime.pipeline import ImageSampling, Picture, Pipeline, Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_running(parser)
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw")
    parser.add_argument(
        "-n", "--n", type=count_up_to(MAX_DRAW_BATCH), default=1, metavar="N", help="pictures, drawn as one batch (1)"
    )
    parser.add_argument(
        "--size", metavar="WxH", help="one of the bundle's sizes, as `illume info` lists them (the first)"
    )
    parser.add_argument(
        "--best-of", type=count_up_to(MAX_DRAW_BATCH), metavar="N", help="the one of N that the model finds the best"
    )
    parser.add_argument(
        "--redraw-below",
        type=number_from(0, 1),
        metavar="SCORE",
        help="draw again where the model's score is lower, and fail after four rounds (0)",
    )
    add_output(parser)
    add_preview(parser)
    add_image_sampling(parser, max_steps=MAX_STEPS)
    example(parser, "illume draw build/illume-tiny.bundle 'a red circle left of a blue square' --seed 7 -o out.png")


def run(args: argparse.Namespace) -> int:
    """Draw, write the files, and say where they are."""
    if args.best_of is not None or args.redraw_below is not None:
        return _run_best(args)
    return draw_to_files(
        args,
        "draw",
        args.n,
        lambda pipeline, sampling, on_progress, on_preview: pipeline.draw(
            args.prompt, n=args.n, size=args.size, sampling=sampling, on_progress=on_progress, on_preview=on_preview
        ),
    )


def _run_best(args: argparse.Namespace) -> int:
    """Draw candidates, write the best one; what the model says of it stands in the file and in the result."""
    if args.n != 1:
        raise UsageError("-n: got several pictures with --best-of or --redraw-below, which give one; leave one out")
    if args.preview is not None:
        raise UsageError("--preview: got it with --best-of or --redraw-below, which draw candidates; leave one out")

    def drawing(
        pipeline: Pipeline,
        sampling: ImageSampling,
        on_progress: Callable[[Progress], None],
        _: object,
    ) -> tuple[list[Picture], dict[str, Any]]:
        from illume_runtime.enhance.best_of import BestOf
        from illume_runtime.typed_json import json_from_value

        best_of = BestOf(args.best_of or 1, args.redraw_below or 0.0)
        best = pipeline.draw_best(args.prompt, best_of, size=args.size, sampling=sampling, on_progress=on_progress)
        return [best.picture], {"assessment": json_from_value(best.assessment), "scores": list(best.scores)}

    return draw_to_files(args, "draw", 1, drawing)
