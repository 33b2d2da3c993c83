"""What is asked of the sides, each side's files, and the sides in turns; all of it is kept on disk and gone on with."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import FLOAT, called
from benchmarks.peers.picture import schedule_of
from benchmarks.peers.shapes import SHAPES, write_checkpoint
from benchmarks.peers.task import Task, task_from_file, write_task
from illume_runtime.bundle import Bundle

PROMPT = 32  # ids


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


def checkpoint_of_shape(folder: Path) -> Path:
    """The checkpoint of the shape that the folder is named after; everything in the folder is made of it."""
    checkpoint = folder / folder.name
    if not (checkpoint / "model.safetensors").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        write_checkpoint(SHAPES[folder.name], checkpoint)
    return checkpoint


def exported(name: str, checkpoint: Path, threads: int, *, again: bool) -> dict[str, Any]:
    """What the export of a side took, SIDE or SIDE-WEIGHTS; that of an earlier run where its files stand."""
    side, _, weights = name.partition("-")
    output = checkpoint.parent / name
    record = output.with_suffix(".json")
    if again or not record.is_file():
        record.unlink(missing_ok=True)
        if output.is_symlink():
            output.unlink()
        shutil.rmtree(output, ignore_errors=True)
        words = (checkpoint, output, threads, weights or FLOAT)
        record.write_text(json.dumps(called(side, "export", *words)), encoding="utf-8")
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return found


def measured(
    names: Sequence[str], folder: Path, task: Task, rounds: int, threads: int
) -> dict[str, list[Mapping[str, Any]]]:
    """What the worker printed, by name and round; every round begins with another side.

    Each is kept in a file until the whole comparison is there: one that was stopped goes on.
    """
    kept = folder / "rounds"
    if not (folder / "task.json").is_file() or task_from_file(folder / "task.json") != task:
        shutil.rmtree(kept, ignore_errors=True)
    write_task(task, folder / "task.json")
    kept.mkdir(exist_ok=True)
    found: dict[str, list[Mapping[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in (*names[number % len(names) :], *names[: number % len(names)]):
            record = kept / f"{number}-{name}.json"
            if not record.is_file():
                side = name.partition("-")[0]
                record.write_text(json.dumps(called(side, "run", folder / name, folder / "task.json", threads)))
            found[name].append(json.loads(record.read_text()))
            print(f"round {number + 1} of {rounds}: {name}, {found[name][-1]['seconds']:.0f} s", flush=True)
    shutil.rmtree(kept)
    return found
