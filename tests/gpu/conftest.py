"""The small model on the CPU, which the GPU is compared with."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def pipeline(bundle):
    from illume_runtime.pipeline import Pipeline

    with Pipeline.load(bundle, threads=1) as loaded:
        yield loaded
