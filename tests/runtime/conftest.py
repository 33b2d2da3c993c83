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


@pytest.fixture
def changed_bundle(bundle, tmp_path):
    """A function: a copy of the bundle whose bundle.json has other values at some keys, given as `a.b.c`."""
    import json
    import shutil

    from bundle_folder import set_key

    def copy(keys):
        folder = tmp_path / f"changed-{len(list(tmp_path.iterdir()))}.bundle"
        shutil.copytree(bundle, folder)
        data = json.loads((folder / "bundle.json").read_text())
        for key, value in keys.items():
            set_key(data, key, value)
        (folder / "bundle.json").write_text(json.dumps(data))
        return folder

    return copy
