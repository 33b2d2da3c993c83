"""`illume enhance assess`: a judge's word on every picture of a corpus."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from illume_runtime.cli.output import note, print_result
from illume_runtime.cli.parser import DEVICES, add_json, count_up_to, example
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.enhance.assessment import Assessment, write_assessments
from illume_runtime.enhance.corpus import Corpus, open_corpus
from illume_runtime.enhance.judge import Drawn, Judge
from illume_runtime.errors import UsageError
from illume_runtime.limits import MAX_DRAW_BATCH
from illume_training.enhancement.checking import Checker
from illume_training.enhancement.questioning import Questioner

if TYPE_CHECKING:
    from illume_runtime.pipeline import Pipeline

JUDGES = ("checker", "model", "questions")


class ModelJudge:
    """The model itself, by the checklists that it learnt to write."""

    name = "model"

    def __init__(self, pipeline: Pipeline) -> None:
        self.assess = pipeline.assess_drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="folder that `illume enhance generate` made")
    parser.add_argument(
        "--judge",
        choices=JUDGES,
        default="checker",
        help="checker: independent, of this world's pictures; model: asks itself; questions: is asked by this world",
    )
    parser.add_argument("--bundle", type=Path, metavar="BUNDLE", help="the model that judges; not for the checker")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.jsonl", help="(CORPUS/assessments-JUDGE.jsonl)")
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a picture that cannot be judged (stop)"
    )
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where the model runs (cpu)")
    parser.add_argument("--threads", type=count_up_to(1024), metavar="T", help="threads of a stage (all cores)")
    add_json(parser)
    example(parser, "illume enhance assess build/corpus --judge checker")


def run(args: argparse.Namespace) -> int:
    """Judge all pictures, write the file, count the verdicts."""
    corpus = open_corpus(args.corpus)
    judge = _judge(args, corpus)
    output = args.output or args.corpus / f"assessments-{judge.name}.jsonl"
    good = [0]
    skipped: list[str] = []

    def assessments() -> Iterator[Assessment]:
        samples = corpus.samples()
        done = 0
        with ProgressBar() as bar:
            while part := list(islice(samples, MAX_DRAW_BATCH)):
                drawn = [Drawn(sample.id, sample.prompt, sample.tokens, picture) for sample, picture in part]
                for one in judge.assess(drawn) if args.on_error == "stop" else _one_by_one(judge, drawn, skipped):
                    good[0] += one.overall.verdict == "good"
                    yield one
                done += len(part)
                bar.update("assessments", done, corpus.facts.num_samples, rate=True)

    count = write_assessments(output, assessments())
    for message in skipped:
        note(args, f"skipped: {message}")
    result = {
        "verb": "enhance assess",
        "judge": judge.name,
        "assessments": count,
        "good": good[0],
        "skipped": skipped,
        "output": str(output),
    }
    print_result(args, result, f"{output}: {count} assessments, {good[0]} good, {len(skipped)} skipped")
    return 0


def _judge(args: argparse.Namespace, corpus: Corpus) -> Judge:
    if args.judge == "checker":
        if args.bundle is not None:
            raise UsageError("--bundle: the checker asks no model; leave it out, or take --judge model or questions")
        return Checker()
    if args.bundle is None:
        raise UsageError(f"--judge {args.judge} needs --bundle, the model that judges")
    from illume_runtime.pipeline import Pipeline

    pipeline = Pipeline.load(args.bundle, device=args.device, threads=args.threads)
    corpus.check_codes(pipeline.bundle)
    return ModelJudge(pipeline) if args.judge == "model" else Questioner(pipeline.assess_drawn)


def _one_by_one(judge: Judge, drawn: list[Drawn], skipped: list[str]) -> Iterator[Assessment]:
    for picture in drawn:
        try:
            yield from judge.assess([picture])
        except UsageError as error:
            skipped.append(str(error))
