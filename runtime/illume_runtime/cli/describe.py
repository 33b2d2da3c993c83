"""`illume describe`: an answer about a picture, written while the model finds it."""

from __future__ import annotations

import argparse
import sys

from illume_runtime.cli.output import note, print_result
from illume_runtime.cli.parser import add_running, add_text_sampling, example
from illume_runtime.cli.running import Stopwatch, running, sampling_from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_running(parser)
    parser.add_argument("image", metavar="IMAGE", help="picture file")
    parser.add_argument("question", metavar="QUESTION", nargs="?", help="what to ask (a full description)")
    add_text_sampling(parser)
    example(parser, "illume describe build/illume-tiny.bundle build/demo/scene-0.png 'how many shapes are there?'")


def run(args: argparse.Namespace) -> int:
    """Answer; the text streams to standard output, or comes as one object with `--json`."""
    stopwatch = Stopwatch()
    first_token_ms: list[float] = []

    def on_text(text: str) -> None:
        if not first_token_ms:
            first_token_ms.append(stopwatch.lap_ms())
        if not args.json:
            sys.stdout.write(text)
            sys.stdout.flush()

    with running(args, "describe") as (pipeline, tracer):
        from illume_runtime.pipeline import TextSampling

        load_ms = stopwatch.lap_ms()
        with tracer.span("describe", "request"):
            answer = pipeline.describe(
                args.image, args.question, sampling=sampling_from_args(TextSampling, args), on_text=on_text
            )
    rest_ms = stopwatch.lap_ms()
    num_tokens = len(answer.token_ids)
    result = {
        "verb": "describe",
        "bundle": pipeline.bundle.name,
        "question": args.question,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": num_tokens,
        "load_ms": load_ms,
        "first_token_ms": first_token_ms[0] if first_token_ms else None,
        "rest_ms": rest_ms,
    }
    print_result(args, result, "")
    if answer.finish_reason == "length":
        note(args, f"stopped after {num_tokens} tokens; give more with --max-tokens")
    return 0
