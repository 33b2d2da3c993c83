"""A bundle opens only if every byte of it is what it should be."""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundle_folder import graph, list_files, manifest_json, set_key, write_bundle
from illume_runtime.bundle import Bundle
from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.limits import MAX_BUNDLE_JSON_BYTES


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A valid bundle; read only."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "small.bundle")


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the valid bundle."""
    return shutil.copytree(whole, tmp_path / "a.bundle")


def edit(folder, change):
    path = folder / "bundle.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_whole_bundle_opens(whole):
    bundle = Bundle.open(whole)
    assert (bundle.name, bundle.family, bundle.path) == ("small", "illume", whole)
    assert bundle.stages["head_level0"].name == "head_level0"
    assert bundle.stages["head_level0"].inputs[0].shape == ("B", 3)
    assert bundle.stage_path("head_level0") == whole / "stages" / "head.onnx"
    assert bundle.generation["draw"] == {"temperature": 1.0, "steps": 10}
    assert bundle.vocabulary.segment("level1").size == 26
    assert bundle.model.max_context == 64
    assert bundle.preprocessing.image_size == (32, 48)
    assert bundle.scheduler.default_steps == 10
    assert bundle.prompts.unconditional_text == ""
    assert bundle.tools == {"illume-rt": "0.1.0"}


def test_a_table_is_mapped_and_read_only(whole):
    table = Bundle.open(str(whole)).table("colors")
    assert isinstance(table, np.memmap)
    assert not table.flags.writeable
    np.testing.assert_array_equal(table, np.arange(30).reshape(10, 3))


def test_an_unknown_table_or_stage_is_named(whole):
    bundle = Bundle.open(whole)
    with pytest.raises(InvalidBundleError, match=r"has no table 'sizes'; it has colors"):
        bundle.table("sizes")
    with pytest.raises(InvalidBundleError, match=r"has no stage 'decoder'; it has head_level0"):
        bundle.stage("decoder")


def test_no_folder_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"gone: no such folder; expected a bundle"):
        Bundle.open(tmp_path / "gone")
    with pytest.raises(InvalidBundleError, match=r"has no bundle.json, so it is no bundle"):
        Bundle.open(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data())
def test_any_changed_byte_of_a_listed_file_is_found(folder, choice):
    name = choice.draw(
        st.sampled_from(["stages/head.onnx", "tables/colors.npy", "tokenizer.json", "generation_config.json"])
    )
    path = folder / name
    whole = path.read_bytes()
    at = choice.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= choice.draw(st.integers(1, 255))
    path.write_bytes(changed)
    with pytest.raises(InvalidBundleError, match=rf"{name} was changed: its SHA-256 is"):
        Bundle.open(folder)
    path.write_bytes(whole)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data())
def test_a_damaged_manifest_is_an_invalid_bundle_or_a_bundle(folder, choice):
    path = folder / "bundle.json"
    whole = path.read_bytes()
    at, length = choice.draw(st.integers(0, len(whole) - 1)), choice.draw(st.integers(0, 40))
    path.write_bytes(whole[:at] + choice.draw(st.binary(max_size=6)) + whole[at + length :])
    with contextlib.suppress(InvalidBundleError):
        assert Bundle.open(folder).family
    path.write_bytes(whole)


def test_without_verify_only_the_hashes_are_left_out(folder):
    path = folder / "tokenizer.json"
    path.write_bytes(b"x" * path.stat().st_size)
    assert Bundle.open(folder, verify=False).name == "small"
    path.write_bytes(b"x")
    with pytest.raises(InvalidBundleError, match=r"tokenizer.json has 1 bytes, expected \d+; copy the bundle"):
        Bundle.open(folder, verify=False)


def test_a_missing_and_an_additional_file_are_named(folder):
    (folder / "stages" / "more.py").write_text("print()")
    with pytest.raises(InvalidBundleError, match=r"stages/more.py is not listed in bundle.json; remove it"):
        Bundle.open(folder)
    (folder / "stages" / "more.py").unlink()
    (folder / "stages" / "head.onnx").unlink()
    with pytest.raises(InvalidBundleError, match=r"stages/head.onnx is missing; copy the bundle"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["stages/head.onnx", "bundle.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("link", "message"), [(os.symlink, "is a symbolic link; put the file"), (os.link, r"is a hard link \(2 names\)")]
)
def test_links_are_refused(folder, tmp_path, name, link, message):
    (folder / name).rename(tmp_path / "elsewhere")
    link(tmp_path / "elsewhere", folder / name)
    with pytest.raises(InvalidBundleError, match=rf"{name} {message}"):
        Bundle.open(folder, verify=False)


def test_a_linked_folder_is_refused(folder, tmp_path):
    (folder / "stages").rename(tmp_path / "elsewhere")
    (folder / "stages").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidBundleError, match="stages is a symbolic link"):
        Bundle.open(folder)


def test_a_pipe_is_refused(folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(InvalidBundleError, match="pipe is no regular file"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a", "stages/../../a", "./a", "a//b", "a\\b", "C:/a", "", "bundle.json", "a/"]
)
def test_paths_outside_are_refused(folder, name):
    edit(folder, lambda data: data["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))
    with pytest.raises(InvalidBundleError, match="not a relative path inside the bundle"):
        Bundle.open(folder)


@pytest.mark.parametrize("location", ["head.onnx.data", "more/head.data"])
def test_listed_external_data_is_accepted(tmp_path, location):
    (tmp_path / "b" / "stages" / "more").mkdir(parents=True)
    folder = tmp_path / "b"
    (folder / "stages" / location).write_bytes(bytes(4))
    staged = write_bundle(tmp_path / "c", model=graph(location))
    shutil.copytree(folder, staged, dirs_exist_ok=True)
    edit(staged, lambda data: list_files(staged, data))
    assert Bundle.open(staged).name == "small"


@pytest.mark.parametrize("in_attribute", [False, True], ids=["initializer", "nested constant"])
@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("/etc/passwd", "outside the bundle"),
        ("../tokenizer.json", "outside the bundle"),
        ("a/../../x", "outside the bundle"),
        ("..\\x", "outside the bundle"),
        ("", "outside the bundle"),
        ("gone.data", "not listed in files"),
    ],
)
def test_external_data_stays_inside(tmp_path, location, message, in_attribute):
    folder = write_bundle(tmp_path / "a", model=graph(location, in_attribute=in_attribute))
    with pytest.raises(InvalidBundleError, match=f"stages/head.onnx: has weights at .*{message}"):
        Bundle.open(folder)


@pytest.mark.parametrize("model", [b"\x3a\xff", b"\x3b", b"\x3a\x05ab", b"\xff" * 20, b""])
def test_a_file_that_is_no_graph_is_named(tmp_path, model):
    folder = write_bundle(tmp_path / "a", model=model)
    with pytest.raises(InvalidBundleError, match=r"head.onnx: (no ONNX file|0 bytes)"):
        Bundle.open(folder)


def test_a_newer_schema_says_what_can_read_it(folder):
    def newer(data):
        data.update(schema_version=2, surprise=1)
        data["tools"]["illume-rt"] = "0.9.0"

    edit(folder, newer)
    with pytest.raises(InvalidBundleError, match=r"schema_version 2 is newer than 1.*illume-rt 0.9.0 wrote it and can"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "this is no bundle"),
        ("{", "bundle.json: no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"format": "illume-bundle", "schema_version": "1"}', "schema_version: got '1', expected 1"),
        (" " * (MAX_BUNDLE_JSON_BYTES + 1), "bytes, expected at most 4194304"),
        ("\ud800", "bundle.json: no JSON: 'utf-8' codec"),
    ],
    ids=["list", "cut", "deep", "twice", "nan", "version", "long", "utf-8"],
)
def test_a_malformed_manifest_is_named(folder, text, message):
    (folder / "bundle.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InvalidBundleError, match=message):
        Bundle.open(folder)


def all_keys(data, path=""):
    """Every key path of an object, list items by number."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, value in pairs:
        if not isinstance(data, list):
            yield f"{path}{name}"
        yield from all_keys(value, f"{path}{name}.")


FREE = ("tools.", "prompts.defaults.", "vocabulary.controls.pad")  # names that a bundle chooses
NAMED = ("stages.head_level0", "tables.colors")
FIXED_KEYS = [key for key in all_keys(manifest_json()) if key not in NAMED and not key.startswith(FREE)]


@pytest.mark.parametrize("key", FIXED_KEYS)
def test_a_removed_key_is_an_error_that_names_it(folder, key):
    def remove(data):
        *parents, last = key.split(".")
        for name in parents:
            data = data[int(name)] if isinstance(data, list) else data[name]
        del data[last]

    edit(folder, remove)
    last = key.rpartition(".")[2]
    with pytest.raises(InvalidBundleError, match=rf"\b{last}\b|this is no bundle|expected an object with one"):
        Bundle.open(folder)


@pytest.mark.parametrize("at", ["", "model", "stages.head_level0", "grammar.image.resolutions.0", "scheduler"])
def test_an_unknown_key_is_an_error_that_names_it(folder, at):
    edit(folder, lambda data: set_key(data, f"{at}.surprise".lstrip("."), 1))
    with pytest.raises(InvalidBundleError, match="surprise: unknown key; the keys here are"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", 3, "bundle.json: name: got 3, expected a string"),
        ("model.hidden_size", "8", 'model.hidden_size: got "8", expected an integer'),
        ("model.hidden_size", True, "model.hidden_size: got true, expected an integer"),
        ("model.max_context", 0, "model.max_context: got 0, expected at least 1"),
        ("precision", "float64", 'precision: got "float64", expected "float32"'),
        ("stages.head_level0.flops.per", "day", 'flops.per: got "day", expected "call" or "token" or "row"'),
        ("stages.head_level0.inputs.0.shape", ["B", 1.5], r"inputs\[0\].shape\[1\]: got 1.5, expected an integer or"),
        ("stages.head_level0.inputs", {}, "inputs: got {}, expected a list"),
        ("stages.head_level0.file", "x", "stages.head_level0.file: x is not listed in files"),
        ("tables.colors.shape", [0], "tables.colors.shape: got .0., expected positive sizes"),
        ("preprocessing.mean", [1, 2], "preprocessing.mean: got 2 values, expected 3"),
        ("preprocessing.std", [1, 0, 1], "preprocessing.std: got .*, expected positive"),
        ("preprocessing.pad_color", [1, 256, 1], "preprocessing.pad_color: got .*, expected 0 to 255"),
        ("scheduler.max_steps", 5, "scheduler.max_steps: got 5, expected at least default_steps"),
        ("scheduler.shift", 10**400, "scheduler.shift: got a number that is too large"),
        ("vocabulary.segments.1.start", 200, r"level0 is \[200, 274\), expected a range from 258 to at most 300"),
        ("vocabulary.segments.2.end", 301, "level1 is"),
        ("vocabulary.segments.1.name", "level1", "two segments have the same name"),
        ("vocabulary.controls.pad", 300, "vocabulary.controls.pad: got 300, expected an id below 300"),
        ("vocabulary.controls.pad", 256, "two controls have the same id"),
        ("prompts.user", [{"slot": "text"}], "prompts.user: has the slots"),
        ("prompts.begin", [{"control": "start"}], "there is no control token 'start'; they are end, "),
        ("prompts.begin", [{"kontrol": "end"}], "expected an object with one of the keys control, slot"),
        ("grammar.image.resolutions", [], "grammar.image.resolutions: has the names"),
        ("files", [], r"files: got \[\], expected an object"),
        ("files", {"tokenizer.json": {"bytes": 1, "sha256": "0"}}, "expected a size and 64 hexadecimal digits"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_key(folder, key, value, message):
    edit(folder, lambda data: set_key(data, key, value))
    with pytest.raises(InvalidBundleError, match=message):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "content",
    [b"\x93NUMPY", np.arange(4).tobytes(), b""],
    ids=["header cut", "no header", "empty"],
)
def test_a_truncated_table_is_an_invalid_bundle(tmp_path, content):
    bundle = Bundle.open(write_bundle(tmp_path / "a", files={"tables/colors.npy": content}))
    with pytest.raises(InvalidBundleError, match=r"tables/colors.npy is no array that can be mapped"):
        bundle.table("colors")


def test_a_table_with_too_few_bytes_is_an_invalid_bundle(whole, tmp_path):
    content = (whole / "tables" / "colors.npy").read_bytes()[:-1]
    bundle = Bundle.open(write_bundle(tmp_path / "a", files={"tables/colors.npy": content}))
    with pytest.raises(InvalidBundleError, match=r"tables/colors.npy is no array that can be mapped"):
        bundle.table("colors")


@pytest.mark.parametrize(
    ("key", "value"), [("tables.colors.dtype", "int8"), ("tables.colors.shape", [3, 10])], ids=["dtype", "shape"]
)
def test_another_table_than_declared_is_an_invalid_bundle(folder, key, value):
    edit(folder, lambda data: set_key(data, key, value))
    with pytest.raises(InvalidBundleError, match=r"holds uint8 \[10, 3\], expected"):
        Bundle.open(folder).table("colors")


def test_a_pickled_table_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    content = (tmp_path / "x.npy").read_bytes()
    bundle = Bundle.open(write_bundle(tmp_path / "a", files={"tables/colors.npy": content}))
    with pytest.raises(InvalidBundleError, match="is no array that can be mapped"):
        bundle.table("colors")


@pytest.mark.parametrize("text", ['{"draw": {"steps": "many"}}', '{"draw": 3}', "[]"])
def test_a_malformed_generation_config_is_named(tmp_path, text):
    folder = write_bundle(tmp_path / "a", files={"generation_config.json": text.encode()})
    with pytest.raises(InvalidBundleError, match=r"generation_config.json.*: got"):
        Bundle.open(folder)
