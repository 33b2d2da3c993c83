"""Every side that is installed, one process at a time, in turns; the tables, and the file of the results.

python -m benchmarks.peers                          qwen2.5-0.5b with the vocabulary of ILLUME+: 12 GB on disk
python -m benchmarks.peers --shape tiny             to see that all of it works; writes no results

Peers come from `python -m benchmarks.peers.install`. What is exported stays in build/peers/SHAPE and is not made again
unless --export is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import BUILD, OURS, SIDES, installed
from benchmarks.peers.picture import whole_picture
from benchmarks.peers.results import PeerResults, SideResult, text_of_results, tokens_of_rounds, write_results
from benchmarks.peers.running import checkpoint_of_shape, exported, measured, task_of
from benchmarks.peers.shapes import SHAPES, num_weights
from benchmarks.results import commit
from illume_runtime.bundle import Bundle
from illume_runtime.machine import this_machine

NOT_INSTALLED = "not installed; python -m benchmarks.peers.install"


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
    checkpoint = checkpoint_of_shape(folder)
    exports = {side: exported(side, checkpoint, args.threads, again=args.export) for side in here}
    bundle = Bundle.open(folder / OURS, verify=False)
    task = task_of(bundle, args.tokens, args.rows or [rows for rows, _ in whole_picture(bundle).grids])
    found = measured(here, folder, task, args.rounds, args.threads)
    results = PeerResults(
        machine=this_machine(),
        date=datetime.now(UTC).date().isoformat(),
        commit=commit(),
        shape=args.shape,
        num_weights=num_weights(SHAPES[args.shape].language_model),
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
