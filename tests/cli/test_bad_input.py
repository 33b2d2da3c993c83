"""Every wrong input of the running verbs, on a real bundle: one line, its exit code, nothing left behind."""

import json
import os
import resource
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image

BAD_VALUES = {
    "--seed": ["-1", "1.5", "x", "", str(2**64), "nan"],
    "--steps": ["0", "-1", "101", "1.5", "x", "nan", "9" * 5000],
    "--guidance": ["-1", "nan", "inf", "-inf", "101", "x", ""],
    "--diffusion-guidance": ["-0.1", "nan", "inf", "1e9", "x"],
    "--temperature": ["-1", "nan", "inf", "101", "hot"],
    "--top-k": ["-1", "1.5", "x", "nan", str(10**12)],
    "--top-p": ["2", "-1", "0", "nan", "x"],
    "--min-p": ["-0.1", "1.1", "nan", "x"],
    "--max-tokens": ["0", "-1", "4097", "1.5", "x"],
    "-n": ["0", "-1", "65", "1000", "1.5", "x"],
    "--threads": ["0", "-1", "1025", "x"],
    "--device": ["gpu", "", "CPU"],
    "--trace": ["nowhere/t.json", "."],
}
RUNNING = ["--threads", "--device", "--trace"]
FILTERS = ["--seed", "--temperature", "--top-k", "--top-p", "--min-p"]
DRAWING = [*RUNNING, *FILTERS, "--steps", "--guidance", "--diffusion-guidance"]
VERBS = {
    "draw": (["{bundle}", "a star", "-o", "{tmp}/o.png"], [*DRAWING, "-n"]),
    "edit": (["{bundle}", "{image}", "make it red", "-o", "{tmp}/o.png"], [*DRAWING, "-n"]),
    "reconstruct": (["{bundle}", "{image}", "-o", "{tmp}/o.png"], DRAWING),
    "describe": (["{bundle}", "{image}", "what?"], [*RUNNING, *FILTERS, "--max-tokens"]),
    "chat": (["{bundle}"], [*RUNNING, *FILTERS, "--max-tokens"]),
}
FLAGS = [
    pytest.param(verb, flag, value, id=f"{verb} {flag} {value[:20]}")
    for verb, (_, flags) in VERBS.items()
    for flag in flags
    for value in BAD_VALUES[flag]
]


@pytest.fixture
def refused(illume, bundle, image_file, tmp_path, monkeypatch):
    """Runs words with {bundle}, {image} and {tmp}; checks the exit code, the one line, and that no file was made."""

    def run(code, message, *words, stdin=""):
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        words = [word.format(bundle=bundle, image=image_file, tmp=tmp_path) for word in words]
        got, out, err = illume(*words, stdin=stdin)
        assert (got, out) == (code, "")
        assert err.startswith(f"illume {words[0]}: error: ")
        assert message in err
        assert err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before

    return run


@pytest.mark.parametrize(("verb", "flag", "value"), FLAGS)
def test_a_wrong_value_of_any_option_is_a_usage_error(refused, verb, flag, value):
    words, _ = VERBS[verb]
    refused(2, "", verb, *words, f"{flag}={value}" if flag.startswith("--") else f"{flag}{value}")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_is_not_there_is_exit_code_3(refused, monkeypatch, verb, device):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    refused(3, f"device {device}: ", verb, *VERBS[verb][0], "--device", device)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; say what you want"),
        (" \t", "is empty; say what you want"),
        ("x" * 100_000, "has 100000 characters, expected at most 32768; shorten it"),
        ("x" * 200, "but the context holds 160; shorten the prompt to"),
        ("a\udcff", "is no valid text at character 1; type it in UTF-8"),
    ],
    ids=["empty", "blank", "100,000 characters", "longer than the context", "no UTF-8"],
)
@pytest.mark.parametrize("verb", ["draw", "edit", "describe"])
def test_a_text_that_cannot_be_taken_is_a_usage_error(refused, verb, text, message):
    words = {
        "draw": ["{bundle}", text, "-o", "{tmp}/o.png"],
        "edit": ["{bundle}", "{image}", text, "-o", "{tmp}/o.png"],
        "describe": ["{bundle}", "{image}", text],
    }[verb]
    refused(2, message, verb, *words)


def test_control_tokens_in_a_prompt_are_plain_text(illume, bundle, tmp_path):
    for number, text in enumerate(["<|end|>", "<start_of_image>", "</s><|im_start|>"]):
        assert illume("draw", bundle, text, "-o", tmp_path / f"{number}.png")[0] == 0
    assert len(list(tmp_path.iterdir())) == 3


def huge_png(path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


def cut(path):
    Image.new("RGB", (64, 64), "red").save(path)
    path.write_bytes(path.read_bytes()[:-40])


IMAGES = {
    "no such file": (lambda path: None, "no such file; name a picture file"),
    "a folder": (lambda path: path.mkdir(), "is a folder; name a picture file"),
    "empty": (lambda path: path.touch(), "is empty (0 bytes); expected a picture file"),
    "a text": (lambda path: path.write_text("hello"), "is no picture that can be read; expected PNG, JPEG"),
    "cut off": (cut, "is damaged: "),
    "30,000 x 30,000": (huge_png, "is too large: "),
}


@pytest.mark.parametrize(("make", "message"), IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("verb", ["describe", "edit", "reconstruct", "chat", "profile"])
def test_a_file_that_is_no_picture_is_a_usage_error(refused, tmp_path, verb, make, message):
    make(tmp_path / "bad.png")
    words = {
        "describe": ["{bundle}", "{tmp}/bad.png"],
        "edit": ["{bundle}", "{tmp}/bad.png", "red", "-o", "{tmp}/o.png"],
        "reconstruct": ["{bundle}", "{tmp}/bad.png", "-o", "{tmp}/o.png"],
        "chat": ["{bundle}", "--image", "{tmp}/bad.png"],
        "profile": ["{bundle}", "--image", "{tmp}/bad.png"],
    }[verb]
    refused(2, message, verb, *words)


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        ("{tmp}", 2, "does not end in .png; pictures are written as PNG"),
        ("{tmp}/folder.png", 2, "is a folder; name a file"),
        ("{tmp}/nowhere/o.png", 2, "does not exist; create it with: mkdir -p"),
        ("{tmp}/file/o.png", 2, "does not exist"),
        ("/proc/o.png", 3, "/proc"),
        ("{tmp}/" + "a" * 300 + ".png", 3, "File name too long"),
        ("o.jpg", 2, "does not end in .png"),
        ("", 2, "does not end in .png"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(refused, tmp_path, output, code, message):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    refused(code, message, "draw", "{bundle}", "a star", "-o", output)


def test_a_name_as_long_as_the_system_takes_is_taken(illume, bundle, tmp_path):
    target = tmp_path / ("a" * 251 + ".png")
    assert illume("draw", bundle, "a", "-o", target)[0] == 0
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("info {tmp}", 4, "has no bundle.json, so it is no bundle"),
        ("info {tmp}/no", 2, "no such folder; expected a bundle"),
        ("info {image}", 2, "no such folder; expected a bundle"),
        ("info", 2, "the following arguments are required: BUNDLE"),
        ("info {bundle} more", 2, "unrecognized arguments: more"),
        ("doctor more", 2, "unrecognized arguments: more"),
        ("profile {tmp}/no --cold-starts 0", 2, "no such folder"),
        ("profile {bundle} --cold-starts -1", 2, "expected 0 or more, got -1"),
        ("profile {bundle} --warm-up x", 2, "expected a whole number, got 'x'"),
        ("profile {bundle} --requests=", 2, "there is no request ''"),
        ("profile {bundle} --trace {tmp}", 2, "is a folder; name a file"),
        ("profile {bundle} --trace {tmp}/no/t.json", 2, "does not exist"),
    ],
)
def test_wrong_words_of_the_other_verbs(refused, line, code, message):
    refused(code, message, *line.split())


def test_too_little_memory_for_a_batch_is_exit_code_7(refused, monkeypatch):
    monkeypatch.setattr("illume_runtime.memory.available_memory_bytes", lambda: 1_000_000)
    refused(7, "MB are left; ask for fewer at once", "draw", "{bundle}", "a", "-n", "64", "-o", "{tmp}/o.png")


def test_a_mistake_in_a_conversation_does_not_end_it(illume, bundle, tmp_path, image_file):
    (tmp_path / "x.png").mkdir()
    lines = [
        "/image nowhere.png",
        "/image",
        "x" * 200,
        "y\udcff",
        "/draw " + "z" * 200,
        f"/image {image_file}",
        "what?",
        f"/save {tmp_path / 'o.png'}",
        "/draw a star",
        f"/save {tmp_path / 'x.png'}",
        f"/save {tmp_path / 'o.png'}",
    ]
    code, out, err = illume("chat", bundle, "--json", "--max-tokens", 2, stdin="\n".join(lines) + "\n")
    assert (code, err) == (0, "")
    events = json.loads(out)["events"]
    assert [event.get("exit_code", 0) for event in events] == [2, 2, 2, 2, 2, 0, 2, 0, 2, 0]
    assert "no valid text at character 1" in events[3]["error"]
    assert events[-1] == {"saved": str(tmp_path / "o.png")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "o.png", "x.png"]


def in_process(*words, **options):
    """The command in a process of its own, which nothing but its arguments connects with this one."""
    environment = {**os.environ, "HOME": "/nonexistent", "XDG_CACHE_HOME": "/proc/none", **options.pop("env", {})}
    command = [sys.executable, "-m", "illume_runtime", *map(str, words)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120, env=environment, **options)


def no_file_longer_than(num_bytes):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    return limit


@pytest.mark.parametrize("trace", [False, True], ids=["picture", "trace"])
def test_a_full_disk_leaves_no_picture(bundle, tmp_path, trace):
    """A limit on the size of files fails each write as a full disk does; the trace is longer than the picture."""
    words = ["--trace", tmp_path / "t.json"] if trace else []
    limit = 28_000 if trace else 2000  # bytes; the picture has some 25,000
    done = in_process(
        "draw", bundle, "a", "-o", tmp_path / "o.png", *words, "--steps", 100, preexec_fn=no_file_longer_than(limit)
    )
    name = "t.json" if trace else "o.png"
    assert (done.returncode, done.stderr) == (3, f"illume draw: error: {tmp_path / name}: File too large\n")
    assert [path.name for path in tmp_path.iterdir()] == (["o.png"] if trace else [])


def test_a_full_disk_leaves_no_bundle(checkpoint, tmp_path):
    done = in_process("export", checkpoint, "-o", tmp_path / "new.bundle", preexec_fn=no_file_longer_than(100))
    assert (done.returncode, done.stderr) == (3, f"illume export: error: {tmp_path / 'new.bundle'}: File too large\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("words", [["info"], ["info", "--json"], ["describe"]], ids=" ".join)
def test_standard_output_that_is_full_is_exit_code_3(bundle, image_file, words):
    verb, *options = words
    rest = [image_file] if verb == "describe" else []
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = in_process(verb, bundle, *rest, *options, stdout=full)
    assert (done.returncode, done.stderr) == (
        3,
        f"illume {verb}: error: No space left on device; make room and run the command again\n",
    )


@pytest.mark.parametrize("verb", ["info", "describe", "draw"])
def test_a_reader_that_goes_away_is_no_error(bundle, image_file, tmp_path, verb):
    rest = {"info": [], "describe": [image_file], "draw": ["a star", "-o", tmp_path / "o.png"]}[verb]
    reader, writer = os.pipe()
    os.close(reader)
    done = in_process(verb, bundle, *rest, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert (verb == "draw") == (tmp_path / "o.png").exists()


def test_output_that_cannot_be_encoded_is_escaped(bundle):
    done = in_process("info", bundle, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2500" in done.stdout


@pytest.mark.parametrize("verb", ["describe", "draw"])
def test_nothing_is_written_but_the_output(bundle, image_file, tmp_path, verb):
    """Neither by us nor by the engine, which would keep an identifier in the user's cache for its telemetry."""
    home = tmp_path / "home"
    home.mkdir()
    words = {"describe": [image_file], "draw": ["a star", "-o", tmp_path / "o.png"]}[verb]
    done = in_process(
        verb, bundle, *words, stdout=subprocess.PIPE, env={"HOME": str(home), "XDG_CACHE_HOME": ""}, cwd=home
    )
    assert done.returncode == 0
    assert list(home.iterdir()) == []


def test_closed_streams_are_as_good_as_empty_ones(bundle, tmp_path):
    command = f"{sys.executable} -m illume_runtime draw {bundle} a -o {tmp_path / 'o.png'} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], timeout=120).returncode == 0
    with Image.open(tmp_path / "o.png") as image:
        image.load()
