"""The benchmarks run from end to end, once each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_benchmark_runs_and_a_quick_run_writes_nothing() -> None:
    before = sorted((ROOT / "benchmarks" / "results").glob("*"))
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks", "--benchmark-only", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    for line in ("draw: tokens", "process start to first token", "peak memory, draw", "drawing with tracing on"):
        assert line in done.stdout
    assert sorted((ROOT / "benchmarks" / "results").glob("*")) == before
