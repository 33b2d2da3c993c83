"""A bundle with any one value of its manifest changed: refused with a typed error, or it still runs."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from illume_runtime.errors import IllumeError, InvalidBundleError
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling

VALUES = [None, True, -1, 0, 1, 2, 7, 10**9, 0.5, -1e308, "", "x", "level0", [], [1], {}, {"x": 1}]


def places(data, path=()):
    """The path of every value in JSON data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory):
    return shutil.copytree(bundle, tmp_path_factory.mktemp("manifest") / "small.bundle")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data())
def test_any_changed_value_is_refused_or_runs(bundle, folder, pictures, choice):
    data = json.loads((bundle / "bundle.json").read_text())
    *parents, last = choice.draw(st.sampled_from(sorted(places(data), key=str)))
    at = data
    for key in parents:
        at = at[key]
    action = choice.draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
    if action == "remove":
        del at[last]
    elif action == "add" and isinstance(at, dict):
        at["another"] = choice.draw(st.sampled_from(VALUES))
    else:
        at[last] = choice.draw(st.sampled_from(VALUES))
    (folder / "bundle.json").write_text(json.dumps(data))
    assert "\n" not in outcome(folder, pictures[0])


def outcome(folder, picture):
    """What is said of a bundle that cannot be used; nothing of one that can. Any other error is the test's."""
    try:
        with Pipeline.load(folder, threads=1) as pipeline:
            pipeline.draw("a", sampling=ImageSampling(steps=1))
            pipeline.edit(picture, "a", sampling=ImageSampling(steps=1))
            pipeline.describe(picture, sampling=TextSampling(max_tokens=2))
            pipeline.reconstruct(picture, sampling=ImageSampling(steps=1))
    except IllumeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tables.token_embedding.shape.0", 10, r"tables.token_embedding.shape: got \[10, 48\], expected \[556, 48\]"),
        (
            "tables.token_embedding.dtype",
            "uint8",
            r"tables.token_embedding.dtype: got uint8, expected float32, float16 or int8",
        ),
        ("tables.token_embedding.dtype", "int8", r"tables.token_embedding_scale: is missing; quantize or export"),
        (
            "tables.token_embedding_scale",
            {"file": "tables/code_color.npy", "dtype": "float32", "shape": [556]},
            "tables.token_embedding_scale: expected only where token_embedding is int8",
        ),
        (
            "tables.token_embedding_scale",
            {"file": "tables/code_color.npy", "dtype": "float32", "shape": [555]},
            r"tables.token_embedding_scale.shape: got \[555\], expected \[556\]",
        ),
        ("tables.code_embedding.shape.0", 35, r"code_embedding.shape: got \[35, 10\], expected \[36, 'any'\]"),
        ("tables.code_color.shape", [36], r"code_color.shape: got \[36\], expected \[36, 3\]"),
        ("tables.code_color.dtype", "int8", r"code_color.npy holds uint8 \[36, 3\], expected int8 \[36, 3\]"),
        ("preprocessing.image_size", [64, 96], r"vision_encoder: pixel_values has the shape \['B', 3, 96, 96\], exp"),
        ("scheduler.latent_shape", [6, 6, 7], r"denoiser: latents has the shape \['B', 6, 6, 6\], expected \['B', 6"),
        ("scheduler.shift", 0, "scheduler.shift: got 0.0, expected a positive number"),
        ("scheduler.solver", "heun", "scheduler.solver: got 'heun', expected one of euler, ab2"),
        ("stages.head_text.outputs.0.shape", ["B", 9], r"head_text: logits has the shape \['B', 9\], expected \['B'"),
    ],
)
def test_values_that_contradict_each_other_are_named(changed_bundle, key, value, message):
    with pytest.raises(InvalidBundleError, match=message), Pipeline.load(changed_bundle({key: value})) as pipeline:
        pipeline.draw("a", on_progress=lambda progress: None)  # with previews, so that all tables are read


def test_steps_without_any_other_default_are_those_of_the_scheduler(changed_bundle):
    folder = changed_bundle({"scheduler.default_steps": 3})
    config = folder / "generation_config.json"
    config.write_text(json.dumps({"draw": {"temperature": 1.0}}))
    data = json.loads((folder / "bundle.json").read_text())
    data["files"]["generation_config.json"]["bytes"] = config.stat().st_size
    (folder / "bundle.json").write_text(json.dumps(data))
    events = []
    with Pipeline.load(folder, threads=1, verify=False) as pipeline:
        (picture,) = pipeline.draw("a", on_progress=events.append)
    assert [event.total for event in events if event.phase == "diffusion"] == [3, 3, 3]
    assert np.asarray(picture.image).std() > 0
