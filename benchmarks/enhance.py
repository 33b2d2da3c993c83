"""What self-enhancement is worth: the tables of docs/self-enhancement.md.

    python -m benchmarks.enhance --before A.bundle --after B.bundle --after C.bundle --shipped build/illume-tiny.bundle

Several bundles of one side are seeds: mean, and lowest to highest. What was measured of a bundle is kept beside it, so
that a run that was stopped goes on. `--quick` shows that all of it runs, on a few cases, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from illume_runtime.enhance.asking import is_taught
from illume_runtime.enhance.assessment import GOOD, Assessment
from illume_runtime.enhance.best_of import BestOf
from illume_runtime.enhance.checklist import DIMENSIONS
from illume_runtime.enhance.judge import Drawn
from illume_runtime.files import atomic_write
from illume_runtime.machine import usable_cores
from illume_runtime.pipeline import ImageSampling, Pipeline
from illume_runtime.schedule import schedule_from_grammar
from illume_training.enhancement.checking import assessment_of
from illume_training.enhancement.questioning import Questioner
from illume_training.evaluation.figures import Tally
from illume_training.evaluation.judging import caption_checks
from illume_training.evaluation.tasks import run_task, seen_in
from illume_training.world import Caption, Split, caption_of, sample_scene

PAGE = Path(__file__).resolve().parents[1] / "docs" / "self-enhancement.md"
BEGIN, END = "<!-- enhance: written by python -m benchmarks.enhance -->", "<!-- end of enhance -->"
CANDIDATES = (1, 2, 4, 8)
BATCH = 32
BEST_OF_CASES = 200  # at most: each is drawn 15 times over
Figures = dict[str, float]


def task_figures(pipeline: Pipeline, task: str, num_cases: int) -> Figures:
    """Share of right cases per aspect on the test split."""
    tally = Tally()
    for outcomes in run_task(task, pipeline, "test", num_cases=num_cases, batch=16, seed=0, sampling=ImageSampling()):
        for outcome in outcomes:
            tally.add(task, "test", outcome.checks)
    return {f"{task}: {figure.aspect}": figure.share for figure in tally.figures()}


def assessing_figures(pipeline: Pipeline, captions: Sequence[Caption]) -> Figures:
    """Agreement of the model's two ways of judging with the checker, and the AUROC of its verdicts."""
    pictures = pipeline.draw_many([caption.text for caption in captions])
    schedule = schedule_from_grammar(pipeline.bundle.grammar, pipeline.bundle.vocabulary)
    ids = [tuple(schedule.tokens_of(one.codes).tolist()) for one in pictures]
    drawn = [Drawn(str(i), one.prompt, tokens) for i, (one, tokens) in enumerate(zip(pictures, ids, strict=True))]
    pairs = zip(pictures, captions, strict=True)
    truth = [assessment_of(seen_in(one.image)[1], caption, str(i)) for i, (one, caption) in enumerate(pairs)]
    figures: Figures = {"pictures that are good": float(np.mean([t.overall.score for t in truth]))}
    said = {"questions": Questioner(pipeline.assess_drawn).assess(drawn)}
    if is_taught(pipeline.bundle):
        said["model"] = pipeline.assess_drawn(drawn)
        wanted = [tuple(c.check for c in one.checks) for one in said["questions"]]
        written = [tuple(c.check for c in one.checks) for one in said["model"]]
        figures["checklists that are exact"] = float(np.mean([a == b for a, b in zip(wanted, written, strict=True)]))
    for judge, found in said.items():
        figures |= {f"{judge}: {name}": value for name, value in agreement(found, truth).items()}
    return figures


def agreement(found: Sequence[Assessment], truth: Sequence[Assessment]) -> Figures:
    """Share of equal verdicts, overall and per dimension where both have a score; AUROC of the overall score."""
    pairs = list(zip(found, truth, strict=True))
    figures = {"agreement": float(np.mean([a.overall.verdict == b.overall.verdict for a, b in pairs]))}
    for name in DIMENSIONS:
        scores = [(a.dimension(name).score, b.dimension(name).score) for a, b in pairs]
        both = [(a >= GOOD) == (b >= GOOD) for a, b in scores if a is not None and b is not None]
        if both:
            figures[f"agreement, {name}"] = float(np.mean(both))
    right = np.array([b.overall.verdict == "good" for _, b in pairs])
    if 0 < right.sum() < len(right):
        figures["AUROC"] = auroc(np.array([a.overall.score for a, _ in pairs]), right)
    return figures


def auroc(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Probability that a right case has the higher score of a right and a wrong one; a tie counts half."""
    differences = scores[right][:, None] - scores[~right][None]
    return float((differences > 0).mean() + 0.5 * (differences == 0).mean())


def best_of_figures(pipeline: Pipeline, captions: Sequence[Caption]) -> Figures:
    """Share of fully right pictures and the median time of one, by the number of candidates; `plain` is `draw`."""
    plain_s = []
    for i, caption in enumerate(captions):
        start_s = perf_counter()
        pipeline.draw(caption.text, sampling=ImageSampling(seed=i))
        plain_s.append(perf_counter() - start_s)
    figures: Figures = {"plain: ms": 1e3 * float(np.median(plain_s))}
    for count in CANDIDATES:
        right, times_s = [], []
        for i, caption in enumerate(captions):
            start_s = perf_counter()
            best = pipeline.draw_best(caption.text, BestOf(count), sampling=ImageSampling(seed=i))
            times_s.append(perf_counter() - start_s)
            right.append(caption_checks(seen_in(best.picture.image)[1], caption)["all"])
        figures[f"best of {count}: right"] = float(np.mean(right))
        figures[f"best of {count}: ms"] = 1e3 * float(np.median(times_s))
    return figures


def throughput_figures(bundle: Path, captions: Sequence[Caption], num_processes: int) -> Figures:
    """Pictures a second: a corpus by a worker on each core, their start included, and a process for each picture."""
    illume = [sys.executable, "-m", "illume_runtime"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "p.jsonl").write_text(prompt_lines(captions), encoding="utf-8")
        words = ["enhance", "generate", bundle, folder / "p.jsonl", "-o", folder / "c", "--batch", BATCH]
        words += ["--workers", usable_cores()]
        corpus_s = seconds_of([*illume, *map(str, words)]) / len(captions)
        one_s = float(
            np.median(
                [
                    seconds_of([*illume, "draw", str(bundle), caption.text, "-o", str(folder / "o.png")])
                    for caption in captions[:num_processes]
                ]
            )
        )
    return {"corpus: pictures/s": 1 / corpus_s, "a process each: pictures/s": 1 / one_s, "ratio": one_s / corpus_s}


def sampled_captions(seed: str, count: int, split: Split) -> list[Caption]:
    """Captions of random scenes."""
    rngs = [Random(f"{seed}-{i}") for i in range(count)]
    return [caption_of(sample_scene(rng, split), rng) for rng in rngs]


def prompt_lines(captions: Sequence[Caption]) -> str:
    """What `illume enhance generate` reads."""
    return "".join(json.dumps({"prompt": caption.text}) + "\n" for caption in captions)


def seconds_of(command: list[str]) -> float:
    start_s = perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return perf_counter() - start_s


def section(columns: Mapping[str, Sequence[Figures]], throughput: Figures, num_cases: int) -> str:
    """The tables; a column has one bundle or several, which are seeds."""
    names = dict.fromkeys(name for column in columns.values() for figures in column for name in figures)
    heads = [f"{head}, {len(column)} seeds" if len(column) > 1 else head for head, column in columns.items()]
    lines = [
        f"{num_cases} cases each of the test split, {min(num_cases, BEST_OF_CASES)} for the best of several; "
        "mean (lowest to highest).",
        "",
        f"| | {' | '.join(heads)} |",
        f"| --- |{' ---: |' * len(columns)}",
        *(f"| {name} | {' | '.join(_cell(name, column) for column in columns.values())} |" for name in names),
        "",
        "| drawing a corpus | |",
        "| --- | ---: |",
        *(f"| {name} | {value:.2f} |" for name, value in throughput.items()),
    ]
    return "\n".join(lines)


def _cell(name: str, seeds: Sequence[Figures]) -> str:
    values = [figures[name] for figures in seeds if name in figures]
    if not values or (name.endswith("ms") and len(seeds) > 1):  # seeds differ in accuracy, not in time
        return ""
    shown = [f"{v:.0f}" if name.endswith("ms") else f"{v:.3f}" for v in (np.mean(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def page_with(text: str, new: str) -> str:
    """The page with another section between its two lines. Raises ValueError if it has them not."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name}: expected the lines {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n{new}\n{END}{tail}"


def kept_figures(bundle: Path, num_cases: int, threads: int | None) -> Figures:
    """As `figures_of`, from the file beside the bundle if it is of this bundle and so many cases."""
    file = bundle.with_name(f"{bundle.name}.figures.json")
    key = {"bundle": sha256((bundle / "bundle.json").read_bytes()).hexdigest(), "cases": num_cases}
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return dict(kept["figures"])
    figures = figures_of(bundle, num_cases, threads)
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps({"key": key, "figures": figures}), encoding="utf-8")
    return figures


def figures_of(bundle: Path, num_cases: int, threads: int | None) -> Figures:
    """All figures of one bundle; the best of several only where the model learnt to assess."""
    captions = sampled_captions("enhance", num_cases, "test")
    with Pipeline.load(bundle, threads=threads) as pipeline:
        figures = task_figures(pipeline, "draw", num_cases) | task_figures(pipeline, "questions", num_cases)
        figures |= assessing_figures(pipeline, captions)
        if is_taught(pipeline.bundle):
            figures |= best_of_figures(pipeline, captions[:BEST_OF_CASES])
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes the page."""
    parser = argparse.ArgumentParser(description="measure what self-enhancement is worth")
    parser.add_argument("--before", type=Path, action="append", required=True, metavar="BUNDLE")
    parser.add_argument("--after", type=Path, action="append", default=[], metavar="BUNDLE")
    parser.add_argument("--shipped", type=Path, metavar="BUNDLE", help="a column of its own, which trained longer")
    parser.add_argument("--cases", type=int, default=500, metavar="N", help="cases of each kind (500)")
    parser.add_argument("--threads", type=int, metavar="T", help="threads of a stage (all cores)")
    parser.add_argument("--quick", action="store_true", help="four cases, and nothing is written")
    args = parser.parse_args(arguments)
    num_cases = 4 if args.quick else args.cases
    measure = figures_of if args.quick else kept_figures
    bundles = {"without": args.before, "with": args.after, "shipped": [args.shipped] if args.shipped else []}
    columns = {name: [measure(one, num_cases, args.threads) for one in some] for name, some in bundles.items() if some}
    captions = sampled_captions("corpus", num_cases, "train")
    throughput = throughput_figures(args.before[0], captions, 1 if args.quick else 8)
    text = section(columns, throughput, num_cases)
    print(text)
    if not args.quick:
        with atomic_write(PAGE) as temporary:
            temporary.write_text(page_with(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    print(json.dumps({**columns, "throughput": throughput}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
