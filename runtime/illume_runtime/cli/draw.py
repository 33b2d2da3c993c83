"""`illume draw`: pictures from text."""

from __future__ import annotations

import argparse

from illume_runtime.cli.drawing import draw_to_files
from illume_runtime.cli.output import add_output, add_preview
from illume_runtime.cli.parser import add_image_sampling, add_running, count_up_to, example
from illume_runtime.limits import MAX_DRAW_BATCH, MAX_STEPS


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
    add_output(parser)
    add_preview(parser)
    add_image_sampling(parser, max_steps=MAX_STEPS)
    example(parser, "illume draw build/illume-tiny.bundle 'a red circle left of a blue square' --seed 7 -o out.png")


def run(args: argparse.Namespace) -> int:
    """Draw, write the files, and say where they are."""
    return draw_to_files(
        args,
        "draw",
        args.n,
        lambda pipeline, sampling, on_progress, on_preview: pipeline.draw(
            args.prompt, n=args.n, size=args.size, sampling=sampling, on_progress=on_progress, on_preview=on_preview
        ),
    )
