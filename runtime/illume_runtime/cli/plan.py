"""`illume plan`: the memory that a bundle takes, or a published model before it is downloaded, and what it fits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from illume_runtime.cli.output import print_result
from illume_runtime.cli.parser import GIB, add_json, example, memory_size
from illume_runtime.cli.table import megabytes, table
from illume_runtime.errors import UnavailableError
from illume_runtime.machine import matmul_model, peak_memory_bytes
from illume_runtime.residency import RESIDENCIES

if TYPE_CHECKING:
    from illume_runtime.bundle import Bundle
    from illume_runtime.plan.needs import Needs

BOARDS = {
    "Orin Nano 8": 8 * GIB,
    "Orin NX 16": 16 * GIB,
    "AGX Orin 32": 32 * GIB,
    "AGX Orin 64": 64 * GIB,
    "Thor 128": 128 * GIB,
    "H100 80": 80 * GIB,
}
SYSTEM_BYTES = 2 * GIB  # what the system and other processes take


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("model", metavar="BUNDLE|MODEL", help="folder of a bundle, or a name such as illume-plus-3b")
    parser.add_argument("--memory", type=memory_size, metavar="SIZE", help="memory of another machine, such as 24GiB")
    parser.add_argument("--size", metavar="WxH", help="of the pictures, as `illume info` lists them (the first)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda", help="a CPU takes half precision as float32 (cuda)"
    )
    add_json(parser)
    example(parser, "illume plan build/illume-tiny.bundle --memory 8GiB")


def run(args: argparse.Namespace) -> int:
    """Count and print."""
    from illume_runtime.bundle import Bundle
    from illume_runtime.plan.needs import needs_from_bundle

    folder = Path(args.model)
    if folder.exists():
        bundle = Bundle.open(folder, verify=False)
        process_bytes = _process_bytes(bundle)
        needs = needs_from_bundle(bundle, args.device, args.size)
    else:
        process_bytes = _process_bytes(None)
        needs = _needs_of_published(args.model, args.device, args.size)
    data = data_from_needs(needs, process_bytes, args.memory)
    print_result(args, data, text_of(data))
    return 0


def data_from_needs(needs: Needs, process_bytes: int, memory: int | None) -> dict[str, Any]:
    """What the verb prints, as JSON data. Peaks are those of a process that makes one kind of request."""
    policies = RESIDENCIES
    machines = BOARDS if memory is None else {f"{memory / GIB:g} GiB": memory, **BOARDS}
    peaks = {policy: process_bytes + needs.largest_bytes(policy) for policy in policies}
    return {
        "verb": "plan",
        "name": needs.name,
        "stages": {
            name: {
                "weight_bytes": needs.weight_bytes(name),
                "activation_bytes": max(stage.activations.values(), default=0),
            }
            for name, stage in needs.stages.items()
        },
        "cache_bytes": max(request.cache_bytes for request in needs.requests),
        "process_bytes": process_bytes,
        "requests": {
            request.kind: {policy: process_bytes + needs.peak_bytes(request, policy) for policy in policies}
            for request in needs.requests
        },
        "mapped": {
            name: {
                request.kind: {
                    policy: {
                        "stages": sorted(placed.mapped),
                        "peak_bytes": process_bytes + placed.peak_bytes(request, policy),
                    }
                    for policy in policies
                    for placed in [needs.within(request, size - process_bytes, policy)]
                }
                for request in needs.requests
            }
            for name, size in machines.items()
            if needs.wide
        },
        "system_bytes": SYSTEM_BYTES,
        "peak_bytes": peaks,
        "fits": {
            name: {policy: peaks[policy] + SYSTEM_BYTES <= size for policy in policies}
            for name, size in machines.items()
        },
    }


def text_of(data: dict[str, Any]) -> str:
    """Tables for people."""
    policies = list(data["peak_bytes"])
    stages = [
        [name, megabytes(stage["weight_bytes"]), megabytes(stage["activation_bytes"])]
        for name, stage in data["stages"].items()
    ]
    stages.append(["KV cache", "", megabytes(data["cache_bytes"])])
    stages.append(["process", "", megabytes(data["process_bytes"])])
    peaks = [
        [kind, *(megabytes(peak[policy]) for policy in policies)]
        for kind, peak in (*data["requests"].items(), ("largest", data["peak_bytes"]))
    ]
    fits = [[name, *("yes" if fit[policy] else "no" for policy in policies)] for name, fit in data["fits"].items()]
    parts = [
        f"{data['name']}: one picture, guided",
        table(["stage", "weights", "activations"], stages),
        table(["peak of a process", *policies], peaks),
        table(["fits", *policies], fits),
        f"{megabytes(data['system_bytes'])} are left to the system",
    ]
    mapped = [
        [name, kind, policy, megabytes(found[policy]["peak_bytes"]), ", ".join(found[policy]["stages"])]
        for name, kinds in data["mapped"].items()
        for kind, found in kinds.items()
        for policy in policies
        if found[policy]["stages"]
    ]
    if mapped:
        parts.insert(4, table(["on a CPU with", "request", "", "peak", "weights left on disk"], mapped, left=3))
    return "\n\n".join(parts)


def _process_bytes(bundle: Bundle | None) -> int:
    """What a process takes before any stage is loaded: this one does now what such a process does."""
    import onnxruntime

    import illume_runtime.ort
    import illume_runtime.pipeline  # noqa: F401 - loaded, as in the process that is counted
    from illume_runtime.text import tokenizer_from_bundle

    onnxruntime.InferenceSession(matmul_model(), providers=["CPUExecutionProvider"])
    if bundle is not None:
        tokenizer_from_bundle(bundle)
    return peak_memory_bytes()


def _needs_of_published(name: str, device: str, size: str | None) -> Needs:
    """A model that is no bundle yet: the export side knows it. Raises UnavailableError where that is missing."""
    import importlib

    try:
        export = importlib.import_module("illume_export.needs")
    except ImportError as error:
        raise UnavailableError(
            f"{name} is no folder; to plan a published model by its name, install 'illume-rt[export]' ({error})"
        ) from error
    needs: Needs = export.needs_from_published(name, device, size)
    return needs
