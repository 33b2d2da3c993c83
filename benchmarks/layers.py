"""Quantized layers of the 3B at their real size on this CPU: a decode step beside peers, blocks of the other stages.

python -m benchmarks.layers                   all that `python -m benchmarks.peers.install` installed
python -m benchmarks.layers --shape tiny      to see that all of it works; writes no results

Decoding is that of four layers of the language model with a vocabulary of 512, so that layers are nearly all of it: a
text of `--tokens` ids, one row, each side with its own files in float32, int8 and int4 (`QUANTIZED`). All are driven as
`python -m benchmarks.peers` drives them, one process at a time, in turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.blocks import BlockTimes, blocks_of_3b, times_of_block
from benchmarks.peers.environments import BUILD, FLOAT, OURS, QUANTIZED, installed
from benchmarks.peers.results import tokens_of_rounds
from benchmarks.peers.running import checkpoint_of_shape, exported, measured, task_of
from benchmarks.peers.shapes import SHAPES
from benchmarks.results import FOLDER, commit, written
from illume_runtime.bundle import Bundle
from illume_runtime.cli.table import megabytes, table
from illume_runtime.machine import Machine, MachineLimits, measured_limits, this_machine

GOALS = {"int8": 3.5, "int4": 5.0}  # times the speed of our float32
SHARE_GOAL = 0.75  # of the memory's bandwidth
ROWS = (1, 1)  # of codes in the picture that the sides draw as well; it is not looked at


@dataclass(frozen=True, slots=True)
class Decode:
    """A step of one layer on one side: medians over the rounds, by the clock and of the process's own time.

    `stored_bytes` are those of a layer in the side's file, `share` what reading them takes of the time at the
    machine's measured bandwidth.
    """

    side: str
    weights: str
    versions: Mapping[str, str]
    ms: float
    cpu_ms: float
    stored_bytes: int
    share: float


@dataclass(frozen=True, slots=True)
class LayerResults:
    """One run."""

    machine: Machine
    limits: MachineLimits
    date: str
    commit: str
    shape: str
    threads: int
    rounds: int
    decode: tuple[Decode, ...]
    blocks: tuple[BlockTimes, ...]


def decode_results(
    folder: Path, sides: Sequence[str], rounds: int, tokens: int, limits: MachineLimits, *, again: bool
) -> tuple[Decode, ...]:
    """All sides in all types; `again`: exported again, also where the files stand."""
    threads = limits.threads
    checkpoint = checkpoint_of_shape(folder)
    pairs = [(side, weights) for side in sides for weights in QUANTIZED[side]]
    names = [side if weights == FLOAT else f"{side}-{weights}" for side, weights in pairs]
    for name in names:
        exported(name, checkpoint, threads, again=again)
    task = task_of(Bundle.open(folder / OURS, verify=False), tokens, ROWS)
    found = measured(names, folder, task, rounds, threads)
    num_layers = SHAPES[folder.name].language_model.num_layers
    decodes = []
    for name, (side, weights) in zip(names, pairs, strict=True):
        text = tokens_of_rounds([one["text"] for one in found[name]], found[OURS][0]["text"]["ids"])
        ms, cpu_ms = (round(value / num_layers, 4) for value in (text.ms_per_token, text.cpu_ms_per_token))
        stored = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file()) // num_layers
        share = round(stored / limits.memory_bytes_per_s * 1e3 / ms, 3)
        decodes.append(Decode(side, weights, found[name][0]["versions"], ms, cpu_ms, stored, share))
    return tuple(decodes)


def text_of_results(results: LayerResults) -> str:
    """The tables for a terminal and for a page."""
    limits = results.limits
    lines = [
        f"{results.machine.cpu}, {results.machine.cores} cores; {limits.memory_bytes_per_s / 1e9:.1f} GB/s read, "
        f"{limits.float32_flops_per_s / 1e9:.0f} GFLOP/s, {results.threads} threads; {results.date}, {results.commit}"
    ]
    if results.decode:
        plain = next(one for one in results.decode if one.side == OURS and one.weights == FLOAT)
        rows = [
            [
                one.side,
                one.weights,
                megabytes(one.stored_bytes),
                f"{one.ms:.2f}",
                f"{one.cpu_ms:.2f}",
                f"{plain.ms / one.ms:.2f}x",
                f"{one.share:.0%}",
            ]
            for one in sorted(results.decode, key=lambda one: one.weights)
        ]
        header = ["decode", "weights", "a layer", "ms", "CPU ms", "of our float32", "share of bandwidth"]
        lines += ["", table(header, rows), ""]
        for weights, goal in GOALS.items():
            of_type = [one for one in results.decode if one.weights.partition("-")[0] == weights]
            ours = next(one for one in of_type if one.side == OURS)
            said = f"{weights}: {plain.ms / ours.ms:.2f} times our float32, goal {goal}; "
            said += f"{ours.share:.0%} of the bandwidth, goal {SHARE_GOAL:.0%}"
            if peers := [one for one in of_type if one.side != OURS]:
                best = min(peers, key=lambda one: one.ms)
                said += (
                    f"; {best.ms / ours.ms:.2f} times the speed of the best peer, {best.side} {best.weights}, goal 1"
                )
            lines.append(said)
    if results.blocks:
        rows = [
            [
                one.name,
                str(one.threads),
                f"{one.flops / 1e9:.1f}",
                megabytes(one.float32_bytes),
                megabytes(one.int8_bytes),
                f"{one.float32.median_ms:.1f}",
                f"{one.int8.median_ms:.1f}",
                f"{one.speedup:.2f}x",
            ]
            for one in results.blocks
        ]
        header = ["block", "threads", "GFLOP", "float32", "int8", "float32 ms", "int8 ms", "faster"]
        lines += ["", table(header, rows)]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> LayerResults:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers")
    parser.add_argument("--shape", choices=("3b-layers", "tiny"), default="3b-layers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="ids of the text (64)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", action="store_true", help="export again")
    parser.add_argument("--no-blocks", action="store_true", help="decoding alone")
    parser.add_argument("--build", type=Path, default=BUILD, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    sides = [side for side in QUANTIZED if side in installed()]
    limits = measured_limits(args.threads)
    folder = args.build / "shapes" / args.shape
    decode = decode_results(folder, sides, args.rounds, args.tokens, limits, again=args.export)
    graphs = args.build / "blocks"
    graphs.mkdir(parents=True, exist_ok=True)
    blocks = [] if args.no_blocks else blocks_of_3b()
    results = LayerResults(
        machine=this_machine(),
        limits=limits,
        date=datetime.now(UTC).date().isoformat(),
        commit=commit(),
        shape=args.shape,
        threads=args.threads,
        rounds=args.rounds,
        decode=decode,
        blocks=tuple(times_of_block(block, graphs, args.rounds, args.threads) for block in blocks),
    )
    print(text_of_results(results))
    if args.shape != "tiny":
        print(f"wrote {written(FOLDER / 'layers', results.machine, results)}")
    return results


if __name__ == "__main__":
    main()
