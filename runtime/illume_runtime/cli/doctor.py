"""`illume doctor`: what this machine can do, and what to install for the rest."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from illume_runtime.cli.main import VERBS
from illume_runtime.cli.output import print_result
from illume_runtime.cli.parser import DEVICES, add_json, example
from illume_runtime.cli.table import table
from illume_runtime.machine import measured_limits, this_machine

DISTRIBUTION = "illume-rt"
PACKAGES = {  # extra -> what it installs; '' is the default install (as in pyproject.toml)
    "": ("numpy", "onnxruntime", "tokenizers", "Pillow"),
    "export": ("torch", "onnx", "onnxscript", "safetensors"),
    "calibrate": ("onnx",),
    "tensorrt-rtx": ("onnx", "tensorrt-rtx-cu13"),
    "tensorrt": ("onnx", "tensorrt"),
    "cuda": ("cuda-core", "cuda-bindings"),
    "pycuda": ("pycuda", "cuda-bindings"),
}
OTHER_NAMES = {"onnxruntime": "onnxruntime-gpu"}  # a distribution that brings the same module
RUNTIMES = ("tensorrt", "tensorrt-rtx-cu13")  # either runs engines
DEVICE_LAYERS = ("cuda-core", "cuda-bindings")
GPU_FILES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg")
OTHER_EXTRAS = {"tensorrt-rtx": "tensorrt"}  # either serves a verb that names the first


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_json(parser)
    example(parser, "illume doctor")


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 also where something optional is missing, because that is an answer and no failure."""
    machine = this_machine()
    limits = measured_limits(machine.cores)
    data = {
        "version": _installed_version(DISTRIBUTION),
        "python": platform.python_version(),
        "system": machine.system,
        "cpu": machine.cpu,
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "power_mode": machine.power_mode,
        "limits": {
            "threads": limits.threads,
            "memory_gb_per_s": round(limits.memory_bytes_per_s / 1e9, 2),
            "float32_gflop_per_s": round(limits.float32_flops_per_s / 1e9, 2),
        },
        "packages": {name: _installed_version(name) for names in PACKAGES.values() for name in names},
        "devices": devices(),
        "verbs": {name: _missing_for(name) for name in VERBS},
    }
    print_result(args, data, _text(data))
    return 0


def devices() -> dict[str, dict[str, Any]]:
    """For each device whether it can be used, and if not, why and what to do."""
    reasons = {device: "" if device == "cpu" else _why_not(device) for device in DEVICES}
    return {device: {"usable": not reason, "reason": reason} for device, reason in reasons.items()}


def _why_not(device: str) -> str:
    """Why a GPU cannot be used through `device`; empty where it can."""
    from illume_runtime.device.driver import compute_capability, driver_version
    from illume_runtime.device.images import kernel_image
    from illume_runtime.errors import UnavailableError
    from illume_runtime.ort import why_no_cuda_provider

    if not any(Path(file).exists() for file in GPU_FILES):
        return "no NVIDIA GPU on this machine"
    lacking = [name for name in DEVICE_LAYERS if not _installed_version(name)]
    if device == "cuda" and (reason := why_no_cuda_provider()):
        return reason
    if device == "tensorrt" and not any(_installed_version(name) for name in RUNTIMES):
        return f"TensorRT is not installed; pip install '{DISTRIBUTION}[tensorrt]' or '{DISTRIBUTION}[tensorrt-rtx]'"
    if lacking:
        return f"needs {', '.join(lacking)}; pip install '{DISTRIBUTION}[{device}]'"
    try:
        driver_version()
        major, minor = compute_capability().split(".")
        kernel_image((int(major), int(minor)))
    except UnavailableError as error:
        return str(error)
    return ""


def _missing_for(verb: str) -> dict[str, Any]:
    first = VERBS[verb].extra
    extras = [first, OTHER_EXTRAS[first]] if first in OTHER_EXTRAS else [first]
    missing: list[str] = []
    for extra in extras:
        needed = PACKAGES[""] + (PACKAGES[extra] if extra else ())
        lacking = [name for name in needed if not _installed_version(name)]
        if not lacking:
            return {"usable": True, "missing": [], "install": ""}
        missing = missing or lacking
    commands = [
        f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}" for extra in extras
    ]
    return {"usable": False, "missing": missing, "install": " or ".join(commands)}


def _installed_version(name: str) -> str:
    """The version of an installed distribution, empty if it is not installed."""
    for distribution in (name, OTHER_NAMES.get(name, name)):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return ""


def _text(data: dict[str, Any]) -> str:
    limits = data["limits"]
    rows = [
        ["illume-rt", data["version"] or "a source tree, not installed"],
        ["Python", data["python"]],
        ["system", data["system"]],
        ["processor", f"{data['cpu']}, {data['cores']} cores usable"],
        ["memory", f"{data['memory_bytes'] / 2**30:.1f} GiB" if data["memory_bytes"] else "not known here"],
        *([["power mode", data["power_mode"]]] if data["power_mode"] else []),
        ["reads", f"{limits['memory_gb_per_s']:.1f} GB/s measured with {limits['threads']} threads"],
        ["computes", f"{limits['float32_gflop_per_s']:.1f} GFLOP/s in float32, measured in ONNX Runtime"],
    ]
    rows += [[name, found or "not installed"] for name, found in data["packages"].items()]
    rows += [
        [f"--device {name}", "yes" if it["usable"] else f"no: {it['reason']}"] for name, it in data["devices"].items()
    ]
    rows += [
        [f"illume {name}", "yes" if it["usable"] else f"no: needs {', '.join(it['missing'])}; {it['install']}"]
        for name, it in data["verbs"].items()
    ]
    return table(["", "this machine"], rows, left=2)
