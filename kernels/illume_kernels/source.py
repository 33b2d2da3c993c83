"""The CUDA source that ships with the package, and its hash, by which a prebuilt binary is known to belong to it."""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent / "cuda"


def source_files() -> dict[str, str]:
    """Text of every source file by its name; kernels.cu includes the others."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.cu*"))}


def source_hash() -> str:
    """SHA-256 of names and texts."""
    digest = hashlib.sha256()
    for name, text in source_files().items():
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()
