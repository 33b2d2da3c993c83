"""`illume train`: runs the recipe; what was stopped goes on where it was."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from illume_runtime.cli.parser import example
from illume_runtime.errors import UnavailableError, UsageError
from illume_training.config import PHASES, training_config_from_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="training configuration (TOML)")
    parser.add_argument("--phases", default=",".join(PHASES), help=f"comma-separated, of {', '.join(PHASES)}")
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="CHECKPOINT", help="go on from a checkpoint: phases not run stay"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: all cores)")
    parser.add_argument("--no-save", action="store_true", help="leave the checkpoint as it is")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    example(parser, "illume train training/configs/illume-tiny.toml")


def run(args: argparse.Namespace) -> int:
    """Trains, then writes the checkpoint."""
    config = training_config_from_file(args.config)
    phases = [name.strip() for name in args.phases.split(",") if name.strip()]
    unknown = sorted(set(phases) - set(PHASES))
    if unknown:
        raise UsageError(f"--phases: got {', '.join(unknown)}, expected some of {', '.join(PHASES)}")
    import torch

    from illume_training.recipe import Recipe

    if args.device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("--device cuda: torch sees no GPU here; use --device cpu")
    if args.threads is not None:
        if args.threads < 1:
            raise UsageError(f"--threads: got {args.threads}, expected at least 1")
        torch.set_num_threads(args.threads)
    recipe = Recipe.new(config, torch.device(args.device), args.start)
    recipe.run(phases)
    if not args.no_save:
        recipe.save()
    if args.json:
        print(json.dumps({"phases": phases, "checkpoint": None if args.no_save else str(config.output)}))
    return 0
