"""What stands beside every figure: the GPU, its driver, the machine, the versions of all that took part."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results import commit
from illume_runtime.device.driver import compute_capability, driver, driver_version
from illume_runtime.machine import this_machine

PACKAGES = (
    "torch", "triton", "numpy", "cuda-core", "cuda-bindings", "cupy-cuda13x", "cupy-cuda12x", "flashinfer-python",
    "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "pycuda",
)  # fmt: skip
QUERY = "driver_version,power.limit,clocks.max.sm,clocks.max.mem,memory.total"
COMMIT_VARIABLE = "ILLUME_COMMIT"  # for a copy of the tree without its history


def environment() -> dict[str, Any]:
    """Facts as JSON. Asks the driver's library and files, so that no CUDA context is made. Raises UnavailableError."""
    capability = compute_capability()
    machine = this_machine()
    return {
        "gpu": gpu_name(),
        "compute_capability": capability,
        "driver_cuda": ".".join(map(str, driver_version())),
        "nvidia_smi": nvidia_smi(),
        "system": machine.system,
        "cpu": machine.cpu,
        "cores": machine.cores,
        "power_mode": machine.power_mode,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": known_commit(),
    }


def gpu_name(device: int = 0) -> str:
    """As the driver calls it."""
    text = ctypes.create_string_buffer(256)
    return text.value.decode(errors="replace") if driver().cuDeviceGetName(text, 256, device) == 0 else "unknown GPU"


def versions() -> dict[str, str]:
    """Of the packages that are installed; none is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def nvidia_smi() -> dict[str, str]:
    """Driver, power limit, clocks and memory by nvidia-smi; empty where it is not here."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(QUERY.split(","), (value.strip() for value in said.splitlines()[0].split(",")), strict=False))


def known_commit() -> str:
    """Of the working tree, or what ILLUME_COMMIT says."""
    try:
        found = commit()
    except OSError:  # git is not installed
        found = "unknown"
    return os.environ.get(COMMIT_VARIABLE, "unknown") if found == "unknown" else found


def free_path(folder: Path, gpu: str, date: str) -> Path:
    """A new, empty file for the results of one GPU and day: `nvidia-h100-2026-11-27.json`, then `...-2.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    words = "".join(character if character.isascii() and character.isalnum() else " " for character in gpu.lower())
    stem = "-".join([*words.split(), date[:10]])
    number = 1
    while True:
        path = folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        try:
            path.open("x").close()
        except FileExistsError:
            number += 1
        else:
            return path
