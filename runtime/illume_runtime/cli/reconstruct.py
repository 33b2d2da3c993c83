"""`illume reconstruct`: a picture drawn again from nothing but its visual tokens."""

from __future__ import annotations

import argparse

from illume_runtime.cli.drawing import draw_to_files
from illume_runtime.cli.output import add_output
from illume_runtime.cli.parser import add_image_sampling, add_running, example
from illume_runtime.limits import MAX_STEPS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_running(parser)
    parser.add_argument("image", metavar="IMAGE", help="picture file")
    add_output(parser)
    add_image_sampling(parser, max_steps=MAX_STEPS)
    example(parser, "illume reconstruct build/illume-tiny.bundle build/demo/scene-0.png -o out.png")


def run(args: argparse.Namespace) -> int:
    """Draw the picture's tokens, write the file, and say where it is."""
    return draw_to_files(
        args,
        "reconstruct",
        1,
        lambda pipeline, sampling, on_progress, _: [
            pipeline.reconstruct(args.image, sampling=sampling, on_progress=on_progress)
        ],
    )
