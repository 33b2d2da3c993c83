"""Every side that is installed, one process at a time, in turns; the tables, and the file of the results.

python -m benchmarks.peers                          qwen2.5-0.5b with the vocabulary of ILLUME+: 12 GB on disk
python -m benchmarks.peers --shape tiny             to see that all of it works; writes no results

Peers come from `python -m benchmarks.peers.install`. What is exported stays in build/peers/SHAPE and is not made again
unless --export is given.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import BUILD, OURS, SIDES, called, installed
from benchmarks.peers.picture import schedule_of, whole_picture
from benchmarks.peers.results import PeerResults, SideResult, text_of_results, tokens_of_rounds, write_results
from benchmarks.peers.shapes import SHAPES, num_weights, write_checkpoint
from benchmarks.peers.task import Task, task_from_file, write_task
from benchmarks.results import commit
from illume_runtime.bundle import Bundle
from illume_runtime.machine import this_machine

PROMPT = 32  # ids
NOT_INSTALLED = "not installed; python -m benchmarks.peers.install"


def task_of(bundle: Bundle, num_text: int, rows: Sequence[int], seed: int = 0) -> Task:
    """A prompt of random words, a text of so many ids, and a picture by its schedule."""
    text = bundle.vocabulary.segment("text")
    schedule = schedule_of(bundle, rows)
    first_control = min(bundle.vocabulary.controls.values())
    prompt = random.Random(seed).choices(range(text.start, first_control), k=PROMPT)
    picture: list[tuple[int, int]] = []
    for step in schedule.steps:
        segment = schedule.segments[step.level]
        picture += [*((i, i + 1) for i in step.tokens), (segment.start, segment.end)]
    return Task(tuple(prompt), ((text.start, text.end),) * num_text, tuple(picture), tuple(rows))


def exported(side: str, checkpoint: Path, threads: int, *, again: bool) -> dict[str, Any]:
    """What a side's export took; that of an earlier run where its files stand."""
    output = checkpoint.parent / side
    record = output.with_suffix(".json")
    if again or not record.is_file():
        record.unlink(missing_ok=True)
        if output.is_symlink():
            output.unlink()
        shutil.rmtree(output, ignore_errors=True)
        record.write_text(json.dumps(called(side, "export", checkpoint, output, threads)), encoding="utf-8")
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return found


def measured(sides: Sequence[str], folder: Path, rounds: int, threads: int) -> dict[str, list[Mapping[str, Any]]]:
    """What the worker printed, by side and round; every round begins with another side.

    Each is kept in a file until the whole comparison is there: one that was stopped goes on.
    """
    (folder / "rounds").mkdir(exist_ok=True)
    found: dict[str, list[Mapping[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in (*sides[number % len(sides) :], *sides[: number % len(sides)]):
            record = folder / "rounds" / f"{number}-{side}.json"
            if not record.is_file():
                record.write_text(json.dumps(called(side, "run", folder / side, folder / "task.json", threads)))
            found[side].append(json.loads(record.read_text()))
            print(f"round {number + 1} of {rounds}: {side}, {found[side][-1]['seconds']:.0f} s", flush=True)
    return found


def side_result(name: str, export: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], ours: Any) -> SideResult:
    """One side's result; `ours` is the first round of illume-rt."""
    text, picture = (tokens_of_rounds([one[task] for one in rounds], ours[task]["ids"]) for task in ("text", "picture"))
    return SideResult(
        name,
        rounds[0]["versions"],
        round(export["seconds"], 1),
        round(export["cpu_seconds"], 1),
        export["peak_bytes"],
        text,
        picture,
    )


def main(arguments: Sequence[str] | None = None) -> PeerResults:
    """Run the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--sides", metavar="A,B", help=f"of {', '.join(SIDES)}; {OURS} is always in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=256, help="ids of the text")
    parser.add_argument(
        "--rows", type=int, nargs=2, metavar="N", help="rows of codes in each level of the picture (9 16)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", action="store_true", help="export again")
    parser.add_argument("--build", type=Path, default=BUILD, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    wanted = [OURS, *(side for side in (args.sides.split(",") if args.sides else SIDES) if side != OURS)]
    if unknown := sorted(set(wanted) - set(SIDES)):
        parser.error(f"there is no side {', '.join(unknown)}; the sides are {', '.join(SIDES)}")
    here = [side for side in wanted if side in installed()]
    folder = args.build / "shapes" / args.shape
    checkpoint = folder / args.shape
    config = SHAPES[args.shape]
    if not (checkpoint / "model.safetensors").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        write_checkpoint(config, checkpoint)
    exports = {side: exported(side, checkpoint, args.threads, again=args.export) for side in here}
    bundle = Bundle.open(folder / OURS, verify=False)
    task = task_of(bundle, args.tokens, args.rows or [rows for rows, _ in whole_picture(bundle).grids])
    if not (folder / "task.json").is_file() or task_from_file(folder / "task.json") != task:
        shutil.rmtree(folder / "rounds", ignore_errors=True)
    write_task(task, folder / "task.json")
    found = measured(here, folder, args.rounds, args.threads)
    shutil.rmtree(folder / "rounds")
    results = PeerResults(
        machine=this_machine(),
        date=datetime.now(timezone.utc).date().isoformat(),
        commit=commit(),
        shape=args.shape,
        num_weights=num_weights(config.language_model),
        threads=args.threads,
        rounds=args.rounds,
        num_prompt=len(task.prompt),
        sides=tuple(side_result(side, exports[side], found[side], found[OURS][0]) for side in here),
        left_out={side: NOT_INSTALLED for side in wanted if side not in here},
    )
    print(text_of_results(results))
    if args.shape != "tiny":
        print(f"wrote {write_results(results)}")
    return results


if __name__ == "__main__":
    main()
