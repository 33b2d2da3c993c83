"""Imports go only leftwards: kernels <- runtime <- calibration <- export <- training; torch stays right of runtime."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("kernels", "runtime", "calibration", "export", "training")
PACKAGES = {f"illume_{layer}": i for i, layer in enumerate(LAYERS)}
HEAVY = {"torch", "onnx", "onnxscript", "safetensors", "tqdm", "scipy", "torchvision", "transformers"}
TORCH_FREE = (
    "kernels",
    "runtime",
    "training/illume_training/world",
    "training/illume_training/evaluation",
    "training/illume_training/enhancement",
)


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, imported name or '') of every import statement, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                yield node.module, alias.name


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_only_leftwards(layer: str) -> None:
    for path in sources(layer):
        for module, _ in imports(path):
            rank = PACKAGES.get(module.split(".")[0])
            assert rank is None or rank <= LAYERS.index(layer), f"{path}: imports {module}, which lies to its right"


@pytest.mark.parametrize("folder", TORCH_FREE)
def test_torch_and_its_kin_stay_out(folder: str) -> None:
    for path in sources(folder):
        for module, _ in imports(path):
            assert module.split(".")[0] not in HEAVY, f"{path}: imports {module}; only export/ and training/ may"


@pytest.mark.parametrize("folder", TORCH_FREE[2:])
def test_torch_free_parts_of_training_do_not_lean_on_the_rest(folder: str) -> None:
    own = folder.removeprefix("training/").replace("/", ".")
    allowed = ("illume_training.world", "illume_training.evaluation", own, "illume_runtime", "illume_kernels")
    for path in sources(folder):
        for module, _ in imports(path):
            if module.startswith("illume_"):
                assert module.startswith(allowed), f"{path}: imports {module}"


@pytest.mark.parametrize("layer", LAYERS)
def test_private_names_stay_in_their_module(layer: str) -> None:
    for path in sources(layer):
        for module, name in imports(path):
            if module.split(".")[0] in PACKAGES:
                private = [
                    part for part in (*module.split("."), name) if part.startswith("_") and part != "__version__"
                ]
                assert not private, f"{path}: imports the private {module}.{name}"
