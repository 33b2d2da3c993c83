"""One side alone in a new process: its peak memory, or its first token as soon as it is there.

python -m benchmarks.process runtime draw build/illume-tiny.bundle 2
python -m benchmarks.process eager first-token assets/illume-tiny 2
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.requests import Side
from illume_runtime.machine import peak_memory_bytes

ROOT = Path(__file__).resolve().parents[1]


def peak_bytes(side: str, request: str, folder: Path, threads: int) -> int:
    """The largest resident size of a new process that loads a side and makes a request twice."""
    command = [sys.executable, "-m", "benchmarks.process", side, request, str(folder), str(threads)]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def _main(side: str, request: str, folder: str, threads: str) -> None:
    if request == "first-token":
        from benchmarks.eager_side import EagerSide

        print(repr(EagerSide(Path(folder), int(threads)).answer(max_tokens=1)), flush=True)
        return
    loaded: Side
    if side == "runtime":
        from benchmarks.runtime_side import RuntimeSide

        loaded = RuntimeSide(Path(folder), int(threads))
    else:
        from benchmarks.eager_side import EagerSide

        loaded = EagerSide(Path(folder), int(threads))
    for _ in range(2):
        getattr(loaded, request)()
    print(peak_memory_bytes())


if __name__ == "__main__":
    _main(*sys.argv[1:])
