"""Tracked text names no registry's host and no path of one machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = re.compile(
    "|".join(
        (
            "pypi" + r"\.org",
            "python" + "hosted",
            "npm" + r"js\.org",
            "deb" + r"\.debian",
            r"(?<![\w.])/" + r"(?:root|work|farm)/",
        )
    )
)


def test_no_hosts_and_no_machine_paths() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.suffix in {".png", ".safetensors", ".onnx", ".npz"} or not path.exists():
            continue
        found = FORBIDDEN.search(path.read_text(encoding="utf-8", errors="replace"))
        assert found is None, f"{name}: holds {found.group()!r}"
