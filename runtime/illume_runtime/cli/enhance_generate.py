"""`illume enhance generate`: pictures and their exact token ids from a file of prompts."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from illume_runtime.cli.output import note, print_result
from illume_runtime.cli.parser import add_image_sampling, add_running, count_up_to, example
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.cli.running import running, sampling_from_args
from illume_runtime.errors import UsageError
from illume_runtime.limits import MAX_DRAW_BATCH, MAX_STEPS

if TYPE_CHECKING:
    from illume_runtime.enhance.generating import Batch

BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_running(parser)
    parser.add_argument("prompts", type=Path, metavar="PROMPTS.jsonl", help='one {"prompt": "..."} a line')
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="CORPUS", help="folder; gone on with if begun"
    )
    parser.add_argument("-n", "--n", type=count_up_to(1000), default=1, metavar="N", help="samples of each prompt (1)")
    parser.add_argument(
        "--batch", type=count_up_to(MAX_DRAW_BATCH), default=BATCH, metavar="B", help=f"samples at once ({BATCH})"
    )
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="at a bad line: end, or go on without it (stop)"
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="draw on a Ray cluster; local: start one on this machine")
    parser.add_argument(
        "--workers",
        type=count_up_to(4096),
        metavar="W",
        help="processes of --threads (1) each (this one; 2 with --ray)",
    )
    add_image_sampling(parser, max_steps=MAX_STEPS)
    example(parser, "illume enhance generate build/illume-tiny.bundle assets/prompts.jsonl -n 2 -o build/corpus")


def run(args: argparse.Namespace) -> int:
    """Draw what is missing, and say how fast it went."""
    from illume_runtime.bundle import Bundle
    from illume_runtime.enhance.generating import corpus_facts, files_of_batch, generate, prompt_check
    from illume_runtime.enhance.prompt_file import prompts_from_file
    from illume_runtime.enhance.ray_workers import drawn_by_ray
    from illume_runtime.enhance.workers import WorkerOptions, drawn_by_processes
    from illume_runtime.sampling import ImageSampling

    if (args.ray or args.workers) and (args.trace or args.memory or args.residency != "all"):
        raise UsageError("--trace, --memory and --residency are of one process; leave them out, or --workers and --ray")
    bundle = Bundle.open(args.bundle, verify=not args.no_verify)
    skipped: list[str] = []

    def skip(message: str) -> None:
        skipped.append(message)
        note(args, f"skipped: {message}")

    check = prompt_check(bundle)
    prompts = prompts_from_file(args.prompts, check, skip if args.on_error == "skip" else None)
    sampling = sampling_from_args(ImageSampling, args)
    facts = corpus_facts(bundle, prompts, samples_per_prompt=args.n, batch=args.batch, sampling=sampling)

    def draw(batches: Sequence[Batch]) -> Iterable[tuple[int, dict[str, bytes]]]:
        path, sha256 = str(Path(args.bundle).resolve()), facts.bundle_sha256
        options = WorkerOptions(path, sha256, args.device, args.threads or 1, not args.no_verify)
        if args.ray and batches:
            yield from drawn_by_ray(args.ray, args.workers or 2, options, sampling, batches)
        elif args.workers and batches:
            yield from drawn_by_processes(args.workers, options, sampling, batches)
        elif batches:
            with running(args, "enhance generate") as (pipeline, tracer):
                for batch in batches:
                    with tracer.span("batch", "request"):
                        files = files_of_batch(pipeline, batch, sampling)
                    yield batch.number, files

    start_s, found = monotonic(), [0]
    with ProgressBar() as bar:

        def on_progress(done: int, total: int) -> None:
            found.append(done)
            bar.update("pictures", done, total, rate=True)

        generate(args.output, facts, prompts, draw, on_progress)
    seconds = monotonic() - start_s
    drawn = found[-1] - found[1]
    result = {
        "verb": "enhance generate",
        "bundle": bundle.name,
        "corpus": str(args.output),
        "samples": facts.num_samples,
        "drawn": drawn,
        "skipped": skipped,
        "seconds": round(seconds, 3),
        "pictures_per_s": round(drawn / seconds, 3),
    }
    text = f"{args.output}: {facts.num_samples} samples, {drawn} drawn now in {seconds:.1f} s"
    print_result(args, result, f"{text}, {len(skipped)} lines skipped" if skipped else text)
    return 0
