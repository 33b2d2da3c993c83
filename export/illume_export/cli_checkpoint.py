"""The options that name a checkpoint: one folder, or the folders of its parts."""

from __future__ import annotations

import argparse
from pathlib import Path

from illume_export.checkpoint import Checkpoint
from illume_export.families import family_from_folder, family_of_parts
from illume_runtime.errors import UsageError


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """CHECKPOINT, or --mllm, --tokenizer and --decoder."""
    parser.add_argument(
        "checkpoint", nargs="?", metavar="CHECKPOINT", help="folder with config.json and model.safetensors"
    )
    parser.add_argument("--mllm", metavar="DIR", help="ILLUME+: folder of the language model, instead of CHECKPOINT")
    parser.add_argument("--tokenizer", metavar="DIR", help="ILLUME+: folder of the vision tokenizer, DualViTok")
    parser.add_argument(
        "--decoder", metavar="DIR", help="ILLUME+: folder of the diffusion decoder; without: draft only"
    )


def checkpoint_from_args(args: argparse.Namespace) -> Checkpoint:
    """The checkpoint that the options name. Raises UsageError for some that do not go together."""
    parts = [args.mllm, args.tokenizer, args.decoder]
    if args.checkpoint is not None and any(parts):
        raise UsageError("CHECKPOINT and --mllm, --tokenizer, --decoder exclude each other; give one or the others")
    if args.checkpoint is None and (args.mllm is None or args.tokenizer is None):
        raise UsageError("expected CHECKPOINT, or both --mllm and --tokenizer (and --decoder, if there is one)")
    found: Checkpoint
    if args.checkpoint is not None:
        folder = Path(args.checkpoint)
        found = family_from_folder(folder).checkpoint_from_folder(folder)
    else:
        family = family_of_parts()
        folders = family.Folders(*(Path(part) if part is not None else None for part in parts))
        found = family.checkpoint_from_folders(folders)
    return found
