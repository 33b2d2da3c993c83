"""A model of full size on this machine: a draft picture and a description, beside what they take at the least.

    illume export --random-weights illume-plus-3b -o build/illume-plus-3b.bundle
    python -m benchmarks.full_size build/illume-plus-3b.bundle --memory 12GiB

Each request is one process of `illume profile`. The least time of a stage is what it has to move or to compute over the
measured limit of the machine; its bytes are those of the weights as they lie in memory. Beside the measured peak stands
what `illume plan` says. Written to `benchmarks/results/full-size/MODEL-MACHINE.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.results import FOLDER, name_of_machine
from illume_runtime.cli.parser import memory_size
from illume_runtime.files import atomic_write
from illume_runtime.machine import this_machine

REQUESTS = {"draw": "draw draft", "describe": "describe"}  # of illume profile, of illume plan


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--memory", default="12GiB", help="what a process may take")
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--max-tokens", default="32", help="of the description")
    parser.add_argument("--requests", nargs="*", choices=REQUESTS, default=list(REQUESTS))
    args = parser.parse_args()
    plan = illume("plan", str(args.bundle), "--device", "cpu", "--memory", args.memory, "--size", args.size, "--json")
    machine = f"{memory_size(args.memory) / (1 << 30):g} GiB"
    path = FOLDER / "full-size" / f"{plan['name']}-{name_of_machine(this_machine())}.json"
    found = json.loads(path.read_text(encoding="utf-8"))["requests"] if path.is_file() else {}
    for request in args.requests:
        options = ["--size", args.size, "--quality", "draft"] if request == "draw" else []
        profile = illume(
            *("profile", str(args.bundle), "--requests", request, "--repeat", "1", "--warm-up", "0"),
            *("--cold-starts", "0", "--threads", args.threads, "--memory", args.memory, "--no-verify", "--json"),
            *("--max-tokens", args.max_tokens, *options),
        )
        found[request] = facts(profile, plan["mapped"][machine][REQUESTS[request]])
        print(text_of(request, found[request]), flush=True)
    results = {
        "model": plan["name"],
        "machine": profile["machine"],
        "date": datetime.now(timezone.utc).date().isoformat(),
        "memory": args.memory,
        "size": args.size,
        "threads": int(args.threads),
        "requests": found,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(path)


def illume(*words: str) -> dict[str, Any]:
    """What a verb prints with --json, in a new process."""
    command = [sys.executable, "-m", "illume_runtime", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def facts(profile: dict[str, Any], planned: dict[str, Any]) -> dict[str, Any]:
    """The figures of one request: each stage with how many times its least time it took."""
    (report,) = profile["requests"]
    rows = [
        {
            "stage": row["name"],
            "calls": row["calls_per_request"],
            "median_ms": round(row["median_ms"], 3),
            "sum_ms": round(row["request_ms"], 1),
            "gb_per_s": None if row["gb_per_s"] is None else round(row["gb_per_s"], 2),
            "gflop_per_s": None if row["gflop_per_s"] is None else round(row["gflop_per_s"], 2),
            "bound_by": row["bound_by"],
            "times_the_least": None if not row["limit_share"] else round(1 / row["limit_share"], 2),
        }
        for row in report["rows"]
    ]
    peak = profile["peak_memory_bytes"]
    return {
        "wall_ms": round(report["median_ms"], 1),
        "load_ms": profile["load_ms"],
        "limits": profile["limits"],
        "peak_memory_bytes": peak,
        "planned_peak_bytes": planned["peak_bytes"],
        "planned_to_measured": round(planned["peak_bytes"] / peak, 3),
        "mapped_stages": planned["stages"],
        "stages": rows,
    }


def text_of(request: str, found: dict[str, Any]) -> str:
    """A table for people."""
    limits = found["limits"]
    lines = [
        f"{request}: {found['wall_ms'] / 1e3:.1f} s, peak {found['peak_memory_bytes'] / 1e9:.2f} GB "
        f"(planned {found['planned_peak_bytes'] / 1e9:.2f}), mapped: {', '.join(found['mapped_stages']) or 'none'}; "
        f"the machine reads {limits['memory_bytes_per_s'] / 1e9:.1f} GB/s, "
        f"computes {limits['float32_flops_per_s'] / 1e9:.0f} GFLOP/s"
    ]
    for row in found["stages"]:
        least = "" if row["times_the_least"] is None else f"{row['times_the_least']:.2f} x {row['bound_by']}"
        lines.append(
            f"  {row['stage']:<18} {row['calls']:>6g} {row['median_ms']:>10.2f} {row['sum_ms']:>10.1f}  {least}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
