"""A device has the wheel and its default dependencies: everything in kernels/ and runtime/ must import there."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = (
    "torch",
    "onnx",
    "onnxscript",
    "safetensors",
    "tqdm",
    "scipy",
    "psutil",
    "hypothesis",
    "pytest",
    "rich",
    "ray",
)

IMPORT_ALL = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Blocked())
count = 0
for root in {packages!r}:
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, root + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
assert count >= {least}, count
assert not set({blocked!r}) & set(sys.modules)
"""


@pytest.mark.parametrize(
    ("packages", "least"),
    [
        (("illume_kernels", "illume_runtime"), 20),
        (("illume_training.world", "illume_training.evaluation", "illume_training.enhancement"), 5),
    ],
    ids=["device", "evaluation"],
)
def test_every_module_imports_without_the_heavy_packages(packages: tuple[str, ...], least: int) -> None:
    code = IMPORT_ALL.format(blocked=BLOCKED, packages=packages, least=least)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_help_loads_no_runtime_library() -> None:
    code = (
        "import sys\nfrom illume_runtime.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'onnxruntime' not in sys.modules and 'PIL' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_wheel_runs_in_a_new_environment(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, capture_output=True)
    done = subprocess.run([python, "-m", "illume_runtime", "doctor", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch" not in subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True).stdout
