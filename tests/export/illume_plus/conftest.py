"""The small checkpoint of the family, written once per session, and the published family's reference data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from plus_checkpoint import random_plus, small_config, write_plus

from illume_export.families.illume_plus.models import IllumePlus


@pytest.fixture(scope="session")
def plus() -> IllumePlus:
    """The small model as it is in memory."""
    return random_plus(small_config())


@pytest.fixture(scope="session")
def plus_folder(plus: IllumePlus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's checkpoint; read only."""
    return write_plus(plus, tmp_path_factory.mktemp("plus") / "plus-small")


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with what the reference implementation computed, `illume_plus_tiny`."""
    root = os.environ.get("ILLUME_REFERENCE")
    if not root:
        pytest.skip("ILLUME_REFERENCE is not set to the folder that holds illume_plus_tiny")
    return Path(root) / "illume_plus_tiny"
