from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from illume_export import families
from illume_export.cli_export import plan_text
from illume_export.families import family_from_folder, random_checkpoint
from illume_export.plan import plan_from_checkpoint
from illume_runtime.errors import InvalidCheckpointError

PACKAGE = dedent(
    """
    from functools import partial
    from illume_export.families.illume import checkpoint_from_folder as of_illume, pipeline_from_checkpoint

    def holds(folder):
        return (folder / "third.txt").is_file()

    def checkpoint_from_folder(folder):
        return of_illume(folder.parent / (folder / "third.txt").read_text())

    PUBLISHED = {"third-1b": lambda: "made"}
    """
)


@pytest.fixture
def third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> Path:
    """A checkpoint of a family that is nothing but a folder, put where families are looked for."""
    package = tmp_path / "families" / "third"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PACKAGE, encoding="utf-8")
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(package.parent)])
    folder = tmp_path / "third-checkpoint"
    folder.mkdir()
    (folder / "third.txt").write_text(str(checkpoint), encoding="utf-8")
    return folder


def test_a_folder_is_a_family(third: Path, tmp_path: Path) -> None:
    assert {"illume", "illume_plus", "third"} <= set(families.families())
    made = family_from_folder(third).checkpoint_from_folder(third)
    assert "vae_decoder" in plan_text(plan_from_checkpoint(made, tmp_path / "out"))
    assert random_checkpoint("third-1b") == "made"


def test_no_family_is_named_outside_its_folder() -> None:
    """`illume` is the project's own name too; the second family stands for all."""
    root = Path(families.__file__).parents[3]
    found = []
    for folder in ("kernels", "runtime", "calibration", "export"):
        for path in (root / folder).rglob("*.py"):
            if "illume_plus" not in path.parts and "illume_plus" in path.read_text(encoding="utf-8"):
                found.append(path.relative_to(root).as_posix())
    assert not found


def test_a_folder_of_no_family_names_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(InvalidCheckpointError, match="model_type is 'llama', expected one of illume, illume_plus"):
        family_from_folder(tmp_path)
