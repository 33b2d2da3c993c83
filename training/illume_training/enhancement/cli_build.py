"""`illume enhance build`: dialogues for stage 3 from a corpus and what a judge said of it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from illume_runtime.cli.output import print_result
from illume_runtime.cli.parser import add_json, count_from_zero, example, seed
from illume_runtime.enhance.assessment import assessments_from_file
from illume_runtime.enhance.corpus import open_corpus
from illume_training.enhancement.dialogues import write_dialogues


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="folder that `illume enhance generate` made")
    parser.add_argument(
        "--assessments", type=Path, metavar="FILE", help="of `illume enhance assess` (CORPUS/assessments-checker.jsonl)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIALOGUES", help="folder to write")
    parser.add_argument(
        "--altered",
        type=count_from_zero,
        default=0,
        metavar="N",
        help="assess each picture against N prompts with a word changed too, by the checker (0)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="seed of corrections and altered prompts (0)")
    add_json(parser)
    example(parser, "illume enhance build build/corpus -o build/dialogues")


def run(args: argparse.Namespace) -> int:
    """Write the dialogues, count both kinds."""
    corpus = open_corpus(args.corpus)
    assessments = assessments_from_file(args.assessments or args.corpus / "assessments-checker.jsonl")
    built = write_dialogues(args.output, corpus.samples(), assessments, seed=args.seed, num_altered=args.altered)
    result = {"verb": "enhance build", "output": str(args.output), **asdict(built)}
    words = (
        f"{built.assess} that assess, {built.correct} that assess and correct, {built.altered} that assess against "
        f"altered prompts, {built.left_out} left out"
    )
    print_result(args, result, f"{args.output}: {words}")
    return 0
