"""The small model as a pipeline, and as the slow model that it is compared with."""

import pytest


@pytest.fixture(scope="session")
def pipeline(bundle):
    from illume_runtime.pipeline import Pipeline

    with Pipeline.load(bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def slow(bundle, checkpoint):
    from slow_model import SlowModel

    from illume_export.families.illume import illume_from_checkpoint

    return SlowModel(illume_from_checkpoint(checkpoint), bundle)
