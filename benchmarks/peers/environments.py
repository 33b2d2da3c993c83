"""Where the sides' Pythons are, and a side as a process in one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "peers"
REQUIREMENTS = Path(__file__).parent / "requirements"
OURS = "illume"
# The module of a side -> its environment; the runtime is measured in the one that runs the benchmark.
SIDES = {
    OURS: None,
    "transformers_eager": "transformers",
    "optimum_onnx": "optimum",
    "onnxruntime_genai": "genai",
    "llama_cpp_python": "llama-cpp",
}
FLOAT = "float32"
WIDE_GROUP = 128
# How the sides that can store weights in integers do it; a number is that of the weights that share a scale, without
# one they are WIDE_GROUP, or a row in our int8.
QUANTIZED = {
    OURS: (FLOAT, "int8", "int4", "int4-32"),
    "onnxruntime_genai": (FLOAT, "int8", "int8-32", "int4", "int4-32"),
    "llama_cpp_python": (FLOAT, "int8-32", "int4-32"),
}
ENVIRONMENTS = tuple(name for name in SIDES.values() if name is not None)


def python_of(environment: str) -> Path:
    """The interpreter of an environment."""
    return BUILD / environment / "venv" / "bin" / "python"


def requirements_of(environment: str) -> str:
    """What is to be installed in it."""
    return (REQUIREMENTS / f"{environment}.txt").read_text(encoding="utf-8")


def group_of(weights: str) -> int:
    """How many of such weights share a scale."""
    _, _, group = weights.partition("-")
    return int(group or WIDE_GROUP)


def record_of(environment: str) -> Path:
    """The file that holds what was installed in it, from when all of it was."""
    return BUILD / environment / "installed.txt"


def installed() -> list[str]:
    """The sides that can run here."""

    def is_there(environment: str) -> bool:
        record = record_of(environment)
        return record.is_file() and record.read_text(encoding="utf-8") == requirements_of(environment)

    return [side for side, name in SIDES.items() if name is None or is_there(name)]


def called(side: str, verb: str, source: Path, target: Path, threads: int, *more: str) -> dict[str, Any]:
    """What `benchmarks.peers.worker` prints about a side. Raises RuntimeError with the end of its output."""
    name = SIDES[side]
    python = sys.executable if name is None else str(python_of(name))
    command = [python, "-m", "benchmarks.peers.worker", verb, side, str(source), str(target), str(threads), *more]
    paths = [ROOT, *(ROOT / folder for folder in ("kernels", "runtime", "calibration", "export"))]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{side}: {verb} ended with {done.returncode}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
