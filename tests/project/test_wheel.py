"""The wheel holds the five packages, their data, the command, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("illume_rt-*.whl")
    return zipfile.ZipFile(path)


def test_every_source_file_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    expected = {
        path.relative_to(root).as_posix()
        for root in (ROOT / layer for layer in ("kernels", "runtime", "calibration", "export", "training"))
        for path in root.glob("illume_*/**/*.py")
    }
    packed = {name for name in wheel.namelist() if name.endswith(".py")}
    assert packed == expected


def test_nothing_else_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert all(top.startswith("illume_") for top in tops), tops
    assert sum(info.file_size for info in wheel.infolist()) < 4 * 1024 * 1024


def test_the_command_is_declared(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "illume = illume_runtime.cli.main:main" in wheel.read(name).decode()


def test_default_dependencies_are_those_of_a_device(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("METADATA"))
    required = [
        line.removeprefix("Requires-Dist: ")
        for line in wheel.read(name).decode().splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    assert sorted(r.split(">")[0].strip().lower() for r in required) == ["numpy", "onnxruntime", "pillow", "tokenizers"]
