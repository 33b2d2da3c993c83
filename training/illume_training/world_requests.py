"""Requests from the world as JSONL with their pictures, for calibration and the quality gate.

    python -m illume_training.world_requests assets/calibration --rounds 24

A round is one question, one drawing and one edit; every fourth has a reconstruction too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from illume_training.world import Split, caption_of, render, sample_edit, sample_question, sample_scene

RECONSTRUCT_EVERY = 4


def write_requests(folder: Path, num_rounds: int, split: Split, seed: str) -> Path:
    """`requests.jsonl` in the folder, which is made; the same arguments write the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "requests.jsonl"
    lines = []
    for number, (request, picture) in enumerate(_requests(num_rounds, split, Random(seed))):
        if picture is not None:
            request["image"] = f"{number}.png"
            Image.fromarray(picture).save(folder / request["image"], optimize=True)
        lines.append(json.dumps(request) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _requests(num_rounds: int, split: Split, rng: Random) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8] | None]]:
    for number in range(num_rounds):
        edit = sample_edit(rng, split)
        yield {"task": "edit", "instruction": edit.text, "seed": number}, render(edit.source, edit.mask)
        scene = sample_scene(rng, split)
        yield {"task": "describe", "question": sample_question(scene, rng).text}, render(scene)
        yield {"task": "draw", "prompt": caption_of(sample_scene(rng, split), rng).text, "seed": number}, None
        if number % RECONSTRUCT_EVERY == 0:
            yield {"task": "reconstruct", "seed": number}, render(sample_scene(rng, split))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the requests and say where they are."""
    parser = argparse.ArgumentParser(description="write requests from the world, with their pictures")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write")
    parser.add_argument("--rounds", type=int, default=24, metavar="N", help="rounds of three or four requests (24)")
    parser.add_argument(
        "--split", choices=("train", "validation", "test", "held_out"), default="train", help="of the world (train)"
    )
    parser.add_argument("--seed", default="calibration", metavar="S", help="any text (calibration)")
    args = parser.parse_args(arguments)
    print(write_requests(args.folder, args.rounds, args.split, args.seed))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
