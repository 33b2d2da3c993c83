"""Builds the kernels ahead of time: `python -m illume_kernels.build` writes a fatbin, cubins and their manifest."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from illume_kernels.nvrtc import cubin_from_source
from illume_kernels.source import FOLDER, source_hash

ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
JETPACK_6 = (87,)
"""Its driver is of CUDA 12.6 and cannot load what a CUDA 13 compiler makes."""

PREBUILT = Path(__file__).parent / "prebuilt"
_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


def nvcc_path() -> str | None:
    """nvcc on the PATH or in the wheel nvidia-cuda-nvcc; None where there is none."""
    installed = (p for entry in sys.path if entry for p in sorted(Path(entry).glob("nvidia/*/bin/nvcc")))
    return shutil.which("nvcc") or next((str(path) for path in installed), None)


def build_fatbin(nvcc: str, output: Path, architectures: tuple[int, ...] = ARCHITECTURES) -> dict[str, Any]:
    """Compiles to `output` and gives {"sm_90": {kernel: {registers, stack_bytes, spill_bytes}}}; RuntimeError if not.

    Beside machine code it holds PTX of the latest architecture, for GPUs that come after it.
    """
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    last = architectures[-1]
    command = [
        *(nvcc, "-std=c++17", "-fatbin", "-Xptxas", "-v", "--compress-mode=size", *targets),
        *(f"-gencode=arch=compute_{last},code=compute_{last}", "-o", str(output), str(FOLDER / "kernels.cu")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"nvcc failed: {done.stderr.strip()}")
    return resources_from_log(done.stderr)


def resources_from_log(log: str) -> dict[str, Any]:
    """What ptxas says of each kernel on each architecture."""
    resources: dict[str, Any] = {}
    entry: dict[str, int] = {}
    for line in log.splitlines():
        if found := _ENTRY.search(line):
            entry = resources.setdefault(f"sm_{found[2]}", {}).setdefault(found[1], {})
        elif found := _STACK.search(line):
            entry["stack_bytes"] = int(found[1])
            entry["spill_bytes"] = int(found[2]) + int(found[3])
        elif found := _REGISTERS.search(line):
            entry["registers"] = int(found[1])
    return resources


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 where all was built."""
    parser = argparse.ArgumentParser(prog="python -m illume_kernels.build", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=PREBUILT, help="folder (default: in the package)")
    parser.add_argument("--nvrtc", type=Path, help="libnvrtc of CUDA 12.6, for the cubins of JetPack 6")
    given = parser.parse_args(arguments)
    nvcc = nvcc_path()
    if nvcc is None:
        print("build: no nvcc on the PATH; install a CUDA 13 toolkit or the wheel nvidia-cuda-nvcc", file=sys.stderr)
        return 3
    given.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.output) as folder:
        files = {"kernels.fatbin": Path(folder) / "kernels.fatbin"}
        resources = build_fatbin(nvcc, files["kernels.fatbin"])
        for architecture in JETPACK_6 if given.nvrtc else ():
            name = f"jetpack6_sm_{architecture}.cubin"
            files[name] = Path(folder) / name
            files[name].write_bytes(cubin_from_source((architecture // 10, architecture % 10), given.nvrtc))
        sizes = {name: path.stat().st_size for name, path in files.items()}
        manifest = {
            "source_sha256": source_hash(),
            "nvcc": subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout.split("\n")[-3],
            "files": sizes,
            "kernels": resources,
        }
        for stale in {*given.output.glob("*.cubin"), *given.output.glob("*.fatbin")} - {
            given.output / name for name in files
        }:
            stale.unlink()  # of another source
        for name, path in files.items():
            path.replace(given.output / name)
        (given.output / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for name, num_bytes in sizes.items():
        print(f"{given.output / name}  {num_bytes / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
