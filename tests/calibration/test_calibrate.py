import errno
import json
import shutil

import numpy as np
import onnx
import pytest

from bundle_folder import set_key
from illume_calibration.embedding_table import write_int8_embedding
from illume_calibration.layers import layers_of
from illume_calibration.observing import observe
from illume_calibration.requests import requests_from_file
from illume_calibration.weights import int8_per_channel
from illume_runtime.bundle import Bundle
from illume_runtime.cli.main import main
from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.files import sha256_of
from illume_runtime.pipeline import ImageSampling, Pipeline
from illume_runtime.schedule import schedule_from_grammar
from illume_runtime.token_embedding import TokenEmbedding


@pytest.fixture
def illume(capsys):
    """Runs a command line in this process: (exit code, standard output, standard error)."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_the_bundle_says_how_it_was_made(bundle, quantized, data):
    made, source = Bundle.open(quantized), Bundle.open(bundle)
    quantization = made.manifest.quantization
    assert made.manifest.precision == "int8"
    assert quantization.recipe == "small"
    assert quantization.source_sha256 == sha256_of(bundle / "bundle.json")
    assert (quantization.data.file, quantization.data.requests, quantization.data.skipped) == ("requests.jsonl", 6, 0)
    assert list(quantization.stages) == [name for name in source.stages if name != "image_tokenizer"]
    assert quantization.stages["decoder"].kept == ("layers.1.mlp.down_proj",)
    assert quantization.stages["denoiser"].weight_only == ("time.up", "time.down", "modulate")
    assert made.stages["decoder"].weight_bytes < 0.4 * source.stages["decoder"].weight_bytes
    assert quantization.quality.failed == ()
    assert quantization.quality.requests == 2
    assert set(quantization.quality.segments) == {"text", "level0"}
    assert quantization.quality.pictures.pictures == 1


def test_every_layer_is_quantized_as_the_recipe_says(bundle, quantized):
    stages = Bundle.open(quantized).manifest.quantization.stages
    for name, stage in stages.items():
        graph = onnx.load(quantized / "stages" / f"{name}.onnx").graph
        assert [layer.name for layer in layers_of(graph)] == list(stage.kept)  # those whose weights are still float
        pairs = sum(node.op_type == "QuantizeLinear" for node in graph.node)
        num_int8 = stage.num_layers - len(stage.weight_only)
        num_convolutions = sum(node.op_type == "Conv" and node.output[0].endswith(".float") for node in graph.node)
        assert pairs == num_int8 + num_convolutions
        weights = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and t.dims]
        assert len(weights) == stage.num_layers


def test_an_embedding_is_looked_up_within_half_a_step_of_its_row(bundle, quantized):
    expected, made = Bundle.open(bundle), Bundle.open(quantized)
    scales = np.asarray(made.table("token_embedding_scale"))
    ids = np.arange(made.vocabulary.size)[::-1].reshape(2, -1)
    rows, looked_up = TokenEmbedding(expected).rows(ids), TokenEmbedding(made).rows(ids)
    assert made.table("token_embedding").dtype == np.int8
    assert looked_up.dtype == np.float32
    assert looked_up.shape == rows.shape == (*ids.shape, made.model.hidden_size)
    assert np.array_equal(rows, np.asarray(expected.table("token_embedding"))[ids])
    assert np.array_equal(scales[ids], np.abs(rows).max(axis=-1) / np.float32(127))
    error = np.abs(looked_up.astype(np.float64) - rows)
    assert error.max() > 0.0
    assert (error <= 0.5 * scales[ids][..., None] * (1.0 + 2.0**-16)).all()  # 2^-16: what float32 rounds at 127 steps


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_of_any_float_are_written_as_int8(changed_bundle, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("illume_calibration.embedding_table.BLOCK_ROWS", 100)  # the last block is not full
    folder = changed_bundle({"tables.token_embedding.dtype": dtype})
    path = folder / "tables" / "token_embedding.npy"
    np.save(path, np.load(path).astype(dtype))
    data = json.loads((folder / "bundle.json").read_text())
    data["files"]["tables/token_embedding.npy"]["bytes"] = path.stat().st_size
    (folder / "bundle.json").write_text(json.dumps(data))
    written = write_int8_embedding(Bundle.open(folder, verify=False), tmp_path)
    whole = int8_per_channel(np.load(path).astype(np.float32), axis=0)
    assert np.array_equal(np.load(tmp_path / written["token_embedding"].file), whole.integers)
    assert np.array_equal(np.load(tmp_path / written["token_embedding_scale"].file), whole.scales)


def test_an_embedding_that_is_not_finite_is_refused(changed_bundle, tmp_path):
    folder = changed_bundle({})
    table = np.load(folder / "tables" / "token_embedding.npy")
    table[-1, 0] = np.nan
    np.save(folder / "tables" / "token_embedding.npy", table)
    with pytest.raises(UsageError, match="token_embedding: has rows that are not finite"):
        write_int8_embedding(Bundle.open(folder, verify=False), tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tables.token_embedding_scale.dtype", "float16", r"scale.dtype: got float16, expected float32"),
        ("tables.token_embedding_scale.shape", [556, 1], r"scale.shape: got \[556, 1\], expected \[556\]"),
        ("tables.token_embedding.dtype", "float32", r"token_embedding_scale: expected only where token_embedding is i"),
    ],
)
def test_rows_and_scales_that_do_not_fit_are_named(quantized, tmp_path, key, value, message):
    folder = tmp_path / "changed.bundle"
    shutil.copytree(quantized, folder)
    data = json.loads((folder / "bundle.json").read_text())
    set_key(data, key, value)
    (folder / "bundle.json").write_text(json.dumps(data))
    with pytest.raises(InvalidBundleError, match=message):
        Bundle.open(folder, verify=False)


def test_the_embedding_stays_as_it_is_where_a_flag_says_so(illume, bundle, data, recipe, tmp_path):
    words = ["--data", data, "-o", tmp_path / "out", "--recipe", recipe, "--no-gate"]
    code, _, err = illume("calibrate", bundle, *words, "--set", "token_embedding.weights=float32")
    assert code == 0, err
    made = Bundle.open(tmp_path / "out")
    assert made.manifest.tables == Bundle.open(bundle).manifest.tables
    assert np.array_equal(made.table("token_embedding"), Bundle.open(bundle).table("token_embedding"))


def test_the_runtime_runs_it_as_it_is(bundle, quantized, pictures):
    sampling = ImageSampling(temperature=0.0, guidance=2.0, steps=2)
    images = []
    for path in (bundle, quantized):
        pipeline = Pipeline.load(path, threads=1)
        assert pipeline.describe(pictures[0], "what is it?").finish_reason in ("end", "length")
        images.append(np.asarray(pipeline.edit(pictures[1], "red", sampling=sampling)[0].image, np.float64))
    assert images[0].shape == images[1].shape


def test_info_prints_the_figures(illume, quantized):
    code, out, _ = illume("info", quantized)
    assert code == 0
    assert "int8" in out.splitlines()[0]
    assert "6 requests of requests.jsonl, 0 skipped" in out
    assert "SQNR to float" in out
    assert "table token_embedding_scale" in out
    assert "under the bar" in out
    data = json.loads(illume("info", quantized, "--json")[1])
    assert data["quantization"]["stages"]["decoder"]["weights"] == "int8"
    assert data["tables"]["token_embedding"]["dtype"] == "int8"


def test_under_a_bar_the_exit_code_is_6_and_the_bundle_stands(illume, bundle, data, recipe, tmp_path):
    strict = tmp_path / "strict.toml"
    strict.write_text(recipe.read_text().replace("sqnr_db = 5.0", "sqnr_db = 150.0"))
    page = tmp_path / "report.html"
    words = ["calibrate", bundle, "--data", data, "-o", tmp_path / "out", "--recipe", strict, "--report", page]
    code, out, err = illume(*words)
    assert code == 6
    assert "under the bar: " in err
    assert "decoder: SQNR" in err
    assert "UNDER" in out
    assert Bundle.open(tmp_path / "out").manifest.quantization.quality.failed
    assert page.read_text().count("<tr") > 20
    assert not (tmp_path / "out.calibration").exists()


def test_verify_compares_a_quantized_bundle_with_its_float_one(illume, bundle, quantized, data, tmp_path):
    words = ["verify", quantized, "--quality", bundle, "--data", data]
    code, out, _ = illume(*words, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["ok"]
    assert found["quality"]["requests"] == 8
    assert [layer["sqnr_db"] for layer in found["layers"]] == sorted(layer["sqnr_db"] for layer in found["layers"])
    code, _, err = illume(*words, "--bars", "illume", "--report", tmp_path / "report.html")
    assert code == 6
    assert "is under the bar: " in err
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_a_float_bundle_equals_itself(illume, bundle, data):
    code, out, _ = illume("verify", bundle, "--quality", bundle, "--data", data, "--json")
    quality = json.loads(out)["quality"]
    assert code == 6  # of the same size
    assert quality["failed"] == ["size"]
    assert {stage["sqnr_db"] for stage in quality["stages"].values()} == {200.0}
    assert {segment["agreement"] for segment in quality["segments"].values()} == {1.0}
    assert quality["free"]["agreement"] == 1.0
    assert quality["pictures"]["ssim"] == 1.0


def test_verify_wants_something_to_compare_with(illume, bundle, quantized, checkpoint):
    assert "name the checkpoint to compare with" in illume("verify", bundle)[2]
    assert "is quantized: compare it with the float bundle" in illume("verify", quantized, checkpoint)[2]
    assert "--quality: name requests to judge by" in illume("verify", quantized, "--quality", bundle)[2]


def test_a_pass_that_was_interrupted_goes_on_where_it_was(bundle, data, tmp_path, monkeypatch):
    import illume_calibration.observing as observing

    opened, requests = Bundle.open(bundle), list(requests_from_file(data))[:6]
    monkeypatch.setattr(observing, "SAVE_EVERY", 2)

    def run(folder, on_request=lambda done, total: None):
        return observe(opened, requests, folder, identity="x", data=data, threads=1, on_request=on_request)

    def interrupt(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", interrupt)
    started = []
    resumed = run(tmp_path / "a", lambda done, total: started.append(done))
    assert started == [4, 5, 6]
    whole = run(tmp_path / "b")
    for stage, expected in whole.statistics.items():
        got = resumed.statistics[stage]
        assert got.calls == expected.calls
        for tensor, statistics in expected.tensors.items():
            assert np.array_equal(statistics.histogram.counts, got.tensors[tensor].histogram.counts)
            assert np.array_equal(statistics.channels, got.tensors[tensor].channels)


def test_both_sides_of_guidance_and_every_step_are_seen(bundle, data, tmp_path):
    opened = Bundle.open(bundle)
    requests = [r for r in requests_from_file(data) if r.task == "draw"][:1]
    found = observe(opened, requests, tmp_path / "a", identity="x", data=data, threads=1, on_request=lambda *_: None)
    num_codes = len(schedule_from_grammar(opened.grammar, opened.vocabulary).steps)
    assert found.statistics["denoiser"].calls == opened.generation["draw"]["steps"]
    assert found.statistics["head_level0"].calls == num_codes
    assert found.statistics["decoder"].calls == num_codes + 1  # two prefills, then a step for each code but the last
    first = next(iter(found.statistics["decoder"].tensors.values())).histogram
    assert first.num_values >= 2 * opened.model.hidden_size * num_codes  # two rows
    assert "vision_encoder" not in found.statistics


@pytest.mark.parametrize("scaling", ["smoothquant", "awq"])
def test_scaling_and_rounding_are_chosen_by_flags(illume, bundle, data, recipe, tmp_path, scaling):
    output = tmp_path / "out"
    flags = [f"decoder.scaling={scaling}", "decoder.rounding=gptq", "decoder.weight_only="]
    words = [word for flag in flags for word in ("--set", flag)]
    code, _, err = illume("calibrate", bundle, "--data", data, "-o", output, "--recipe", recipe, *words)
    assert code == 0, err
    decoder = Bundle.open(output).manifest.quantization.stages["decoder"]
    assert (decoder.scaling, decoder.rounding) == (scaling, "gptq")
    assert decoder.scaled
    graph = onnx.load(output / "stages" / "decoder.onnx").graph
    readers = {name for node in graph.node if node.op_type == "QuantizeLinear" for name in node.input}
    assert any(name.endswith(".scaled") for name in readers)


def test_methods_that_look_at_inputs_need_requests(illume, bundle, recipe, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"task": "draw", "prompt": "a star"}))
    words = ["--data", path, "-o", tmp_path / "out", "--recipe", recipe, "--no-gate"]
    words += ["--set", "vision_encoder.weights=float32", "--set", "head_text.rounding=gptq"]
    code, _, err = illume("calibrate", bundle, *words)
    assert code == 2
    assert "head_text: no calibration request reached it" in err
    assert "--set head_text.rounding=nearest" in err


BAD = {
    "unknown scaling": (["--set", "decoder.scaling=best"], 'stages.decoder.scaling: got "best", expected "none" or'),
    "unknown rounding": (["--set", "decoder.rounding=up"], 'stages.decoder.rounding: got "up", expected "nearest" or'),
    "no file": (["--data", "none.jsonl"], "none.jsonl: no such file"),
    "unknown recipe": (["--recipe", "fast"], "--recipe fast: no such file; name one, or one of those that ship"),
    "unknown key": (["--set", "decoder.bits=4"], "--set decoder.bits=4: expected STAGE.KEY=VALUE"),
    "bad value": (["--set", "decoder.weights=int3"], 'stages.decoder.weights: got "int3"'),
    "int4 with activations": (["--set", "decoder.weights=int4"], "int4 weights need activations = 'float32'"),
    "a table with activations": (
        ["--set", "token_embedding.activations=int8"],
        "stages.token_embedding: a table has weights alone, expected int8 or float32",
    ),
    "unknown layer": (
        ["--set", "denoiser.keep=blocks.0.mlp.upp"],
        "denoiser.keep: there is no layer 'blocks.0.mlp.upp'; the nearest names are blocks.0.mlp.up",
    ),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input(illume, bundle, data, recipe, tmp_path, words, message):
    given = {"--data": str(data), "--recipe": str(recipe), "-o": str(tmp_path / "out")}
    given.update(dict(zip(words[::2], words[1::2], strict=True)))
    code, _, err = illume("calibrate", bundle, *(word for pair in given.items() for word in pair), "--no-gate")
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_report_in_no_folder_is_refused_before_the_work(illume, bundle, data, tmp_path):
    words = ["--data", data, "-o", tmp_path / "out", "--report", "no/such/folder/r.html"]
    code, _, err = illume("calibrate", bundle, *words)
    assert code == 2
    assert "the folder no/such/folder does not exist" in err


def test_a_quantized_bundle_is_not_quantized_again(illume, quantized, data, tmp_path):
    code, _, err = illume("calibrate", quantized, "--data", data, "-o", tmp_path / "out")
    assert code == 2
    assert "is quantized already (recipe small); start from the float bundle" in err


def test_an_output_that_exists_is_left_alone(illume, bundle, data, tmp_path):
    (tmp_path / "out").mkdir()
    code, _, err = illume("calibrate", bundle, "--data", data, "-o", tmp_path / "out")
    assert code == 2
    assert "exists already" in err


def test_a_folder_of_somebody_else_is_left_alone(illume, bundle, data, recipe, tmp_path):
    (tmp_path / "out.calibration").mkdir()
    (tmp_path / "out.calibration" / "letter.txt").write_text("dear")
    code, _, err = illume("calibrate", bundle, "--data", data, "-o", tmp_path / "out", "--recipe", recipe)
    assert code == 2
    assert "was not made by illume calibrate" in err
    assert (tmp_path / "out.calibration" / "letter.txt").exists()


def test_requests_that_cannot_be_run_are_an_error_above_a_twentieth(illume, bundle, data, recipe, tmp_path):
    lines = [json.dumps({"task": "draw", "prompt": "a star"})] * 3
    lines.append(json.dumps({"task": "describe", "image": "gone.png", "question": "what?"}))
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(lines))
    words = ["--data", path, "-o", tmp_path / "out", "--recipe", recipe, "--no-gate"]
    code, _, err = illume("calibrate", bundle, *words)
    assert code == 2
    assert "1 of 4 requests cannot be run, expected at most 5%: line 4: " in err
    assert "gone.png: no such file" in err


def test_a_stage_that_no_request_reaches_is_named(illume, bundle, recipe, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"task": "draw", "prompt": "a star"}))
    words = ["--data", path, "-o", tmp_path / "out", "--recipe", recipe, "--no-gate"]
    code, _, err = illume("calibrate", bundle, *words)
    assert code == 2
    assert "vision_encoder: no calibration request reached it; add requests that do" in err


def test_too_few_values_for_the_method_are_named(illume, bundle, data, recipe, tmp_path):
    precise = tmp_path / "precise.toml"
    precise.write_text(recipe.read_text().replace('method = "minmax"', 'method = "percentile"\npercentile = 99.99999'))
    words = ["--data", data, "-o", tmp_path / "out", "--recipe", precise, "--no-gate"]
    code, _, err = illume("calibrate", bundle, *words)
    assert code == 2
    assert "percentile needs at least 10000000; add requests, or choose another --method" in err


def test_a_damaged_bundle_is_refused(illume, bundle, data, tmp_path):
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    (damaged / "stages" / "decoder.onnx").write_bytes(b"no")
    code, _, _ = illume("calibrate", damaged, "--data", data, "-o", tmp_path / "out")
    assert code == 4


def test_a_budget_relieves_the_most_sensitive_layers(illume, bundle, data, recipe, tmp_path):
    words = ["--data", data, "-o", tmp_path / "out", "--recipe", recipe, "--max-drop", "10", "--json"]
    code, out, _ = illume("calibrate", bundle, *words)
    found = json.loads(out)
    assert code in (0, 6)
    noises = [damage["noise"] for damage in found["sensitivity"]]
    assert noises == sorted(noises, reverse=True)
    decoder = found["quantization"]["stages"]["decoder"]
    assert "layers.1.mlp.down_proj" in decoder["kept"]
    assert {d["layer"] for d in found["sensitivity"] if d["stage"] == "decoder"} == {
        layer.name for layer in layers_of(onnx.load(bundle / "stages" / "decoder.onnx").graph)
    } - {"layers.1.mlp.down_proj"}


def test_a_budget_that_cannot_be_met_is_an_error(illume, bundle, data, recipe, tmp_path, monkeypatch):
    import illume_calibration.mixed_precision as mixed_precision

    monkeypatch.setattr(mixed_precision, "TARGETS_DB", (0.0,))
    monkeypatch.setattr(mixed_precision, "damages_of_stage", lambda *_: [])
    monkeypatch.setattr(mixed_precision, "_changed_shares", lambda *_: {"text": 0.02, "level0": 0.0})
    words = ["--data", data, "-o", tmp_path / "out", "--recipe", recipe, "--max-drop", "1"]
    code, _, err = illume("calibrate", bundle, *words)
    assert code == 6
    assert "2.00% of the tokens of text change even with the most sensitive layers in float" in err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_bundle_and_the_statistics(illume, bundle, data, recipe, tmp_path, monkeypatch):
    import illume_calibration.bundle_from_recipe as bundle_from_recipe_module

    def full(model, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(bundle_from_recipe_module, "save_graph", full)
    words = ["calibrate", bundle, "--data", data, "-o", tmp_path / "out", "--recipe", recipe, "--no-gate"]
    code, _, err = illume(*words)
    assert code == 3
    assert "No space left on device" in err
    assert [path.name for path in tmp_path.iterdir()] == ["out.calibration"]
    monkeypatch.undo()
    assert illume(*words)[0] == 0  # goes on from the statistics
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_in_no_folder_is_refused_before_the_work(illume, bundle, data, recipe, tmp_path):
    (tmp_path / "file").write_text("")
    words = ["--data", data, "-o", tmp_path / "file" / "out", "--recipe", recipe]
    code, _, err = illume("calibrate", bundle, *words)
    assert code == 3
    assert "file" in err
