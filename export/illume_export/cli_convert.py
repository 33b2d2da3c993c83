"""`illume convert`: safetensors from legacy .bin weights, in a folder of their own."""

from __future__ import annotations

import argparse
from pathlib import Path

from illume_export.pickled import safetensors_from_folder
from illume_runtime.cli.output import print_result
from illume_runtime.cli.parser import add_json, example
from illume_runtime.cli.table import megabytes
from illume_runtime.typed_json import json_from_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("folder", metavar="FOLDER", help="checkpoint folder with .bin files, also in subfolders")
    parser.add_argument("-o", "--output", required=True, metavar="NEW", help="folder to write")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights where a file holds both")
    add_json(parser)
    example(parser, "illume convert checkpoints/dualvitok -o checkpoints/dualvitok-safetensors")


def run(args: argparse.Namespace) -> int:
    """Convert every .bin file and copy the configuration beside it."""
    output = Path(args.output)
    files = safetensors_from_folder(Path(args.folder), output, ema=args.ema)
    lines = [f"{output / file.path}: {file.num_tensors} tensors, {megabytes(file.num_bytes)}" for file in files]
    print_result(args, {"output": str(output), "files": json_from_value(files)}, "\n".join(lines))
    return 0
