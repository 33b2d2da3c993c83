"""`illume edit`: a picture changed as an instruction says."""

from __future__ import annotations

import argparse

from illume_runtime.cli.drawing import draw_to_files
from illume_runtime.cli.output import add_output, add_preview
from illume_runtime.cli.parser import add_image_sampling, add_running, count_up_to, example
from illume_runtime.limits import MAX_DRAW_BATCH, MAX_STEPS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_running(parser)
    parser.add_argument("image", metavar="IMAGE", help="picture file")
    parser.add_argument("instruction", metavar="INSTRUCTION", help="what to change")
    parser.add_argument(
        "-n", "--n", type=count_up_to(MAX_DRAW_BATCH), default=1, metavar="N", help="versions, drawn as one batch (1)"
    )
    add_output(parser)
    add_preview(parser)
    add_image_sampling(parser, max_steps=MAX_STEPS)
    example(
        parser, "illume edit build/illume-tiny.bundle build/demo/scene-0.png 'make the background green' -o out.png"
    )


def run(args: argparse.Namespace) -> int:
    """Edit, write the files, and say where they are."""
    return draw_to_files(
        args,
        "edit",
        args.n,
        lambda pipeline, sampling, on_progress, on_preview: pipeline.edit(
            args.image, args.instruction, n=args.n, sampling=sampling, on_progress=on_progress, on_preview=on_preview
        ),
    )
