"""`illume plan`: the memory that a bundle takes, or a published model before it is downloaded, and what it fits."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from illume_export.families import random_checkpoint
from illume_export.needs import Needs, needs_from_bundle, needs_from_checkpoint
from illume_runtime.bundle import Bundle
from illume_runtime.cli.output import print_result
from illume_runtime.cli.parser import add_json, example
from illume_runtime.cli.table import megabytes, table

GIB = 1 << 30
BOARDS = {
    "Orin Nano 8": 8 * GIB,
    "Orin NX 16": 16 * GIB,
    "AGX Orin 32": 32 * GIB,
    "AGX Orin 64": 64 * GIB,
    "Thor 128": 128 * GIB,
    "H100 80": 80 * GIB,
}
SYSTEM_BYTES = 2 * GIB  # what the system, the libraries and the process itself take
POLICIES = ("all", "staged")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("model", metavar="BUNDLE|MODEL", help="folder of a bundle, or a name such as illume-plus-3b")
    parser.add_argument("--memory", type=_memory, metavar="SIZE", help="memory of another machine, such as 24GiB")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda", help="a CPU takes half precision as float32 (cuda)"
    )
    add_json(parser)
    example(parser, "illume plan build/illume-tiny.bundle --memory 8GiB")


def run(args: argparse.Namespace) -> int:
    """Count and print."""
    folder = Path(args.model)
    if folder.exists():
        needs = needs_from_bundle(Bundle.open(folder, verify=False), args.device)
    else:
        needs = needs_from_checkpoint(random_checkpoint(args.model), args.device)
    data = data_from_needs(needs, args.memory)
    print_result(args, data, text_of(data))
    return 0


def data_from_needs(needs: Needs, memory: int | None) -> dict[str, Any]:
    """What the verb prints, as JSON data."""
    machines = BOARDS if memory is None else {f"{memory / GIB:g} GiB": memory, **BOARDS}
    peaks = {policy: needs.peak_bytes(policy) for policy in POLICIES}
    return {
        "verb": "plan",
        "name": needs.name,
        "stages": {
            stage.name: {"weight_bytes": stage.weight_bytes, "activation_bytes": stage.activation_bytes}
            for stage in needs.stages
        },
        "cache_bytes": needs.cache_bytes,
        "system_bytes": SYSTEM_BYTES,
        "peak_bytes": peaks,
        "fits": {
            name: {policy: peaks[policy] + SYSTEM_BYTES <= size for policy in POLICIES}
            for name, size in machines.items()
        },
    }


def text_of(data: dict[str, Any]) -> str:
    """Two tables for people."""
    rows = [
        [name, megabytes(stage["weight_bytes"]), megabytes(stage["activation_bytes"])]
        for name, stage in data["stages"].items()
    ]
    rows.append(["KV cache", "", megabytes(data["cache_bytes"])])
    rows += [[f"peak, {policy}", "", megabytes(size)] for policy, size in data["peak_bytes"].items()]
    fits = [[name, *("yes" if fit[p] else "no" for p in POLICIES)] for name, fit in data["fits"].items()]
    return (
        f"{data['name']}: a guided picture of the first resolution, drawn from a picture\n"
        f"{table(['stage', 'weights', 'activations'], rows)}\n\n"
        f"{table(['fits', *POLICIES], fits)}\n"
        f"{megabytes(data['system_bytes'])} are left to the system"
    )


def _memory(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GiB|GB)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 8GiB or 8GB, got {text!r}")
    return int(float(found[1]) * (GIB if found[2] == "GiB" else 10**9))
