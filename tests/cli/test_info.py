"""`illume info`, and what the command line says of a bundle that is not as it should be."""

import json

import pytest

from bundle_folder import graph, list_files, write_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "small.bundle")


def test_info_counts_stages_cache_and_steps(illume, bundle):
    code, out, err = illume("info", bundle, "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["stages"]["head_level0"]["weight_bytes"] == 4
    assert data["cache_bytes_per_row"] == 2 * 1 * 1 * 4 * 64 * 4
    assert [(it["name"], it["steps"]) for it in data["pictures"]] == [("48x32", 22), ("16x16", 1)]
    assert data["limits"]["max_draw_batch"] == 64
    assert data["bytes"] == sum(path.stat().st_size for path in bundle.rglob("*.*") if path.name != "bundle.json")


def test_info_is_a_table_for_people(illume, bundle):
    code, out, _ = illume("info", bundle)
    assert code == 0
    assert out.startswith(f"small (illume, float32) in {bundle}\n")
    assert "head_level0" in out
    assert "22 steps" in out


def changed_byte(bundle):
    path = bundle / "stages" / "head.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncated(bundle):
    path = bundle / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-10])


def newer(bundle):
    path = bundle / "bundle.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))


def linked(bundle):
    path = bundle / "tables" / "colors.npy"
    path.rename(bundle.parent / "outside.npy")
    path.symlink_to(bundle.parent / "outside.npy")


def outside(bundle):
    (bundle / "stages" / "head.onnx").write_bytes(graph("../../weights.bin"))
    data = json.loads((bundle / "bundle.json").read_text())
    list_files(bundle, data)
    (bundle / "bundle.json").write_text(json.dumps(data))


def missing(bundle):
    (bundle / "generation_config.json").unlink()


def no_manifest(bundle):
    (bundle / "bundle.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed_byte, "stages/head.onnx was changed: its SHA-256 is"),
        (truncated, "tokenizer.json has"),
        (newer, "schema_version 9 is newer than 1"),
        (linked, "tables/colors.npy is a symbolic link"),
        (outside, "stages/head.onnx: has weights at '../../weights.bin', outside the bundle"),
        (missing, "generation_config.json is missing"),
        (no_manifest, "has no bundle.json, so it is no bundle"),
    ],
)
@pytest.mark.parametrize("words", [["info"], ["describe"], ["draw"]], ids=str)
def test_a_damaged_bundle_is_one_line_and_exit_code_4(illume, bundle, image_file, words, damage, message):
    damage(bundle)
    rest = {"info": [], "describe": [image_file], "draw": ["a star", "-o", bundle.parent / "o.png"]}[words[0]]
    code, out, err = illume(*words, bundle, *rest)
    assert (code, out) == (4, "")
    assert err.startswith(f"illume {words[0]}: error: {bundle}: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (bundle.parent / "o.png").exists()


def test_a_bundle_that_is_not_there_is_a_usage_error(illume, tmp_path):
    code, _, err = illume("info", tmp_path / "no.bundle")
    assert code == 2
    assert "no such folder" in err
