"""What the running verbs do with a pipeline: files, text, JSON, traces. The pipeline itself is a fake here."""

import json
import os
import re

import pytest
from PIL import Image

from illume_runtime.cli import output
from illume_runtime.errors import UnavailableError


def drawing_words(verb, image_file):
    return {
        "draw": ["draw", "b", "a red circle"],
        "edit": ["edit", "b", image_file, "make it blue"],
        "reconstruct": ["reconstruct", "b", image_file],
    }[verb]


@pytest.mark.parametrize("verb", ["draw", "edit", "reconstruct"])
def test_a_drawing_verb_writes_the_picture_and_one_json_object(illume, fake, tmp_path, image_file, verb):
    out_file = tmp_path / "out.png"
    code, out, err = illume(*drawing_words(verb, image_file), "-o", out_file, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert set(result) == {"verb", "bundle", "pictures", "load_ms", "draw_ms", "png_ms"}
    assert (result["verb"], result["bundle"]) == (verb, "fake")
    (picture,) = result["pictures"]
    assert picture["file"] == str(out_file)
    with Image.open(out_file) as image:
        assert image.size == (256, 256)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.png"]


def test_the_png_says_how_to_draw_it_again(illume, fake, tmp_path):
    out_file = tmp_path / "out.png"
    prompt = "ein blauer Stern ★"
    illume("draw", "b", prompt, "-o", out_file, "--seed", 7, "--steps", 5, "--guidance", 2.5)
    with Image.open(out_file) as image:
        facts = json.loads(image.text["illume"])
    assert facts["prompt"] == prompt
    assert (facts["seed"], facts["request"], facts["bundle"], facts["verb"]) == (7, 0, "fake", "draw")
    assert facts["options"] == {"n": 1, "steps": 5, "guidance": 2.5}
    assert facts["codes_sha256"] == output.codes_sha256(fake.picture(prompt, 7, 0))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("out.png", ["out-0.png", "out-1.png", "out-2.png"]),
        ("{i}-out.png", ["0-out.png", "1-out.png", "2-out.png"]),
        ("a{i}.PNG", ["a0.PNG", "a1.PNG", "a2.PNG"]),
    ],
)
def test_several_pictures_get_numbers(illume, fake, tmp_path, name, files):
    code, out, _ = illume("draw", "b", "a star", "-n", 3, "-o", tmp_path / name)
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert all(file in out for file in files)


def test_previews_are_files_of_their_own(illume, fake, tmp_path):
    words = ["draw", "b", "a star", "-n", 2, "-o", tmp_path / "out.png"]
    code, out, err = illume(*words, "--preview", tmp_path / "p.png")
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-0.png", "out-1.png", "p-0.png", "p-1.png"]
    assert [f"p-{i}.png  preview of picture {i}" in err for i in (0, 1)] == [True, True]
    assert "p-0.png" not in out


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.png", "--preview and --output are both"), ("p.jpg", "--preview .* does not end in .png")],
)
def test_a_preview_that_cannot_be_written_is_refused_before_the_work(illume, fake, tmp_path, name, message):
    code, _, err = illume("draw", "b", "a star", "-o", tmp_path / "out.png", "--preview", tmp_path / name)
    assert code == 2
    assert re.search(message, err)
    assert fake.calls == []


def test_only_the_options_given_reach_the_sampling(illume, fake, tmp_path):
    illume("draw", "b", "a star", "-o", tmp_path / "o.png", "--steps", 3, "--top-p", 0.5, "--diffusion-guidance", 0)
    ((_, _, sampling),) = fake.calls
    assert (sampling.steps, sampling.top_p, sampling.diffusion_guidance, sampling.seed) == (3, 0.5, 0, 0)
    assert (sampling.temperature, sampling.top_k, sampling.guidance) == (None, None, None)


def test_double_sampling_is_off_unless_it_is_asked_for(illume, fake, tmp_path):
    for words in ([], ["--double-sampling"]):
        illume("draw", "b", "a star", "-o", tmp_path / "o.png", *words)
    assert [sampling.double_sampling for _, _, sampling in fake.calls] == [False, True]


def test_how_it_is_loaded_reaches_the_pipeline(illume, fake, tmp_path):
    words = ("--device", "cuda", "--threads", 3, "--no-verify", "--residency", "staged")
    illume("draw", "b", "a", "-o", tmp_path / "o.png", *words)
    assert fake.loaded == {"bundle": "b", "device": "cuda", "threads": 3, "verify": False, "residency": "staged"}


def test_describe_streams_its_answer(illume, fake, image_file):
    assert illume("describe", "b", image_file, "what is it?") == (0, "a red circle\n", "")
    assert fake.calls[0][1] == "what is it?"


def test_describe_with_json_prints_one_object_and_no_stream(illume, fake, image_file):
    code, out, err = illume("describe", "b", image_file, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert set(result) == {
        "verb", "bundle", "question", "answer", "finish_reason", "tokens", "load_ms", "first_token_ms", "rest_ms",
    }  # fmt: skip
    assert (result["answer"], result["tokens"], result["question"]) == ("a red circle", 3, None)


@pytest.mark.parametrize("verb", ["draw", "edit", "reconstruct"])
def test_trace_writes_a_trace_file(illume, fake, tmp_path, image_file, verb):
    trace = tmp_path / "trace.json"
    code, *_ = illume(*drawing_words(verb, image_file), "-o", tmp_path / "o.png", "--trace", trace)
    assert code == 0
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {verb, "png", "load"} <= names


@pytest.mark.parametrize("option", ["-o", "--trace"])
def test_an_output_that_cannot_be_written_is_known_before_the_work(illume, fake, tmp_path, monkeypatch, option):
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr(output.os, "access", lambda path, mode: path != closed)
    files = {"-o": tmp_path / "o.png", "--trace": tmp_path / "t.json"}
    files[option] = closed / files[option].name
    words = [word for pair in files.items() for word in pair]
    code, out, err = illume("draw", "b", "a star", *words)
    assert (code, out) == (3, "")
    assert f"the folder {closed} is not writable" in err
    assert fake.calls == []


def test_an_output_that_is_a_folder_is_refused(illume, fake, tmp_path):
    (tmp_path / "x.png").mkdir()
    code, _, err = illume("draw", "b", "a star", "-o", tmp_path / "x.png")
    assert code == 2
    assert "is a folder; name a file" in err


def test_a_full_disk_leaves_no_file(illume, fake, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, os.strerror(28), "out.png")

    monkeypatch.setattr(Image.Image, "save", full)
    code, out, err = illume("draw", "b", "a star", "-o", tmp_path / "out.png")
    assert (code, out) == (3, "")
    assert "out.png: No space left on device" in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_writing_leaves_no_file(illume, fake, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    code, out, err = illume("draw", "b", "a star", "-o", tmp_path / "out.png")
    assert (code, out, err) == (130, "", "illume draw: error: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_drawing_leaves_the_old_picture(illume, fake, tmp_path, monkeypatch):
    target = tmp_path / "out.png"
    target.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise UnavailableError("no")

    monkeypatch.setattr(fake, "draw", fail)
    assert illume("draw", "b", "a star", "-o", target)[0] == 3
    assert target.read_bytes() == b"old"


def test_doctor_answers_in_json(illume):
    code, out, err = illume("doctor", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert set(data) == {
        "version", "python", "system", "cpu", "cores", "memory_bytes", "power_mode", "limits", "packages",
        "devices", "verbs",
    }  # fmt: skip
    assert data["devices"]["cpu"] == {"usable": True, "reason": ""}
    assert data["limits"]["memory_gb_per_s"] > 0
    assert data["limits"]["float32_gflop_per_s"] > 0


def test_doctor_names_the_extra_to_install(illume, monkeypatch):
    from illume_runtime.cli import doctor

    installed = doctor._installed_version
    monkeypatch.setattr(doctor, "_installed_version", lambda name: "" if name == "torch" else installed(name))
    verbs = json.loads(illume("doctor", "--json")[1])["verbs"]
    assert verbs["export"] == {"usable": False, "missing": ["torch"], "install": "pip install 'illume-rt[export]'"}
    assert verbs["draw"]["usable"]


def test_profile_reports_every_request(illume, fake, tmp_path):
    trace = tmp_path / "trace.json"
    words = ["--repeat", 2, "--cold-starts", 0, "--requests", "describe,draw,edit,reconstruct", "--trace", trace]
    code, out, err = illume("profile", "b", *words, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert [request["name"] for request in result["requests"]] == ["describe", "draw", "edit", "reconstruct"]
    for request in result["requests"]:
        assert request["repeats"] == 2
        assert sum(row["share"] for row in request["rows"]) == pytest.approx(1)
    draw = {row["name"]: row for row in result["requests"][1]["rows"]}
    assert draw["denoise"]["calls_per_request"] == 3
    assert result["peak_memory_bytes"] > 0
    assert json.loads(trace.read_text())["traceEvents"]


def test_profile_prints_a_table(illume, fake):
    code, out, _ = illume("profile", "b", "--repeat", 1, "--cold-starts", 0, "--requests", "draw")
    assert code == 0
    assert "draw: " in out
    assert any(line.startswith("denoise ") for line in out.splitlines())
    assert any(line.startswith("other ") for line in out.splitlines())


@pytest.mark.parametrize("there", ["", "tensorrt", "tensorrt-rtx-cu13"])
def test_doctor_names_both_extras_that_build_engines(illume, monkeypatch, there):
    from illume_runtime.cli import doctor

    builders = {"tensorrt", "tensorrt-rtx-cu13"}
    monkeypatch.setattr(doctor, "_installed_version", lambda name: "" if name in builders - {there} else "1")
    build = json.loads(illume("doctor", "--json")[1])["verbs"]["build"]
    assert build["usable"] is bool(there)
    assert build["install"] == (
        "" if there else "pip install 'illume-rt[tensorrt-rtx]' or pip install 'illume-rt[tensorrt]'"
    )
