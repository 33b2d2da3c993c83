"""Finding a verb, exit codes, one-line errors, and what must not be imported for it."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from illume_runtime.cli import main as main_module
from illume_runtime.cli.main import VERBS, Verb
from illume_runtime.errors import InvalidBundleError, UnavailableError


def in_new_process(*words, code=None, env=None, **options):
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "illume_runtime", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}, **options
    )


def test_without_a_verb_the_help_lists_all_of_them(illume):
    code, out, err = illume()
    assert (code, err) == (0, "")
    assert all(f"  {name} " in out for name in VERBS)
    assert illume("--help") == (0, out, "")


def test_an_unknown_verb_is_a_usage_error_that_names_the_verbs(illume):
    code, out, err = illume("paint")
    assert (code, out) == (2, "")
    assert err.startswith("illume: error: there is no verb 'paint'; the verbs are doctor, info,")
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_ends_with_a_command_that_parses(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        main_module.main([*verb.split(), "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    words = shlex.split(text.rstrip().splitlines()[-1])
    num_words = 1 + len(verb.split())
    assert words[:num_words] == ["illume", *verb.split()]
    assert text.rstrip().splitlines()[-2] == "example:"
    module = main_module.importlib.import_module(VERBS[verb].module)
    parser = main_module.VerbParser(prog=verb, description="")
    module.add_arguments(parser)
    assert parser.parse_args(words[num_words:]).json is False


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("draw", "the following arguments are required: BUNDLE, PROMPT, -o/--output; see illume draw --help"),
        ("draw b p -o x.png --steps 0", "argument --steps: expected a whole number from 1 to 100, got 0"),
        ("draw b p -o x.png --steps ten", "argument --steps: expected a whole number, got 'ten'"),
        ("draw b p -o x.png --n 1000", "argument -n/--n: expected a whole number from 1 to 64, got 1000"),
        ("draw b p -o x.png -n -1", "argument -n/--n: expected a whole number from 1 to 64, got -1"),
        ("draw b p -o x.png --guidance nan", "argument --guidance: expected a number from 0 to 100, got nan"),
        ("draw b p -o x.png --top-p 1.5", "argument --top-p: expected a number from 0 to 1, got 1.5"),
        ("draw b p -o x.png --top-k -1", "argument --top-k: expected 0 or more, got -1"),
        ("draw b p -o x.png --seed -3", "argument --seed: expected a number from 0 to 2**64 - 1, got -3"),
        ("draw b p -o x.png --stepz 3", "unrecognized arguments: --stepz 3"),
        ("draw b p -o x.png --step 3", "unrecognized arguments: --step 3"),
        ("draw b p -o x.jpg", "--output 'x.jpg' does not end in .png; pictures are written as PNG"),
        ("draw b p -o nowhere/x.png", "the folder nowhere does not exist; create it with: mkdir -p nowhere"),
        ("draw b p -o x.png --device gpu", "argument --device: invalid choice: 'gpu'"),
        ("describe b i --threads 0", "argument --threads: expected a whole number from 1 to 1024, got 0"),
        ("describe b i --max-tokens 0", "argument --max-tokens: expected a whole number from 1 to 4096, got 0"),
        ("describe b i --temperature hot", "argument --temperature: expected a number, got 'hot'"),
        ("profile b --requests draw,sing", "argument --requests: there is no request 'sing'; choose from"),
        ("profile b --repeat 0", "argument --repeat: expected a whole number from 1 to 1000, got 0"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(illume, line, message):
    words = line.split()
    code, out, err = illume(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"illume {words[0]}: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.fixture
def failing(monkeypatch):
    """A verb `fail` that raises what it is given."""

    def install(error):
        def run(args):
            raise error

        module = type(sys)("failing_verb")
        module.add_arguments = lambda parser: parser.add_argument("--json", action="store_true")
        module.run = run
        monkeypatch.setitem(sys.modules, "failing_verb", module)
        monkeypatch.setitem(VERBS, "fail", Verb("failing_verb", "fails", "export"))

    return install


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidBundleError("decoder.onnx: hash\nmismatch"), 4, "decoder.onnx: hash mismatch"),
        (UnavailableError("no GPU"), 3, "no GPU"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 7, "out of memory; use a smaller -n, or close other programs"),
        (
            OSError(28, "No space left on device", "out.png"),
            3,
            "out.png: No space left on device; make room and run",
        ),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 3, "pip install 'illume-rt[export]'"),
        (ImportError("libgomp.so.1: cannot open shared object file"), 3, "cannot be loaded: libgomp.so.1: cannot open"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_goes_wrong_becomes_one_line_and_an_exit_code(illume, failing, error, code, message):
    failing(error)
    got, out, err = illume("fail")
    assert (got, out) == (code, "")
    assert err.startswith("illume fail: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_an_error_with_json_is_one_object_too(illume, failing):
    failing(UnavailableError("no GPU"))
    code, out, err = illume("fail", "--json")
    assert json.loads(out) == {"error": {"message": "no GPU", "exit_code": 3}}
    assert (code, err) == (3, "illume fail: error: no GPU\n")


def test_illume_debug_shows_the_traceback(illume, failing, monkeypatch):
    failing(UnavailableError("no GPU"))
    monkeypatch.setenv("ILLUME_DEBUG", "1")
    assert "Traceback" in illume("fail")[2]


@pytest.mark.parametrize("kind", [ModuleNotFoundError, ImportError])
def test_our_own_mistakes_are_not_hidden(illume, failing, kind):
    failing(kind("No module named 'illume_runtime.gone'", name="illume_runtime.gone"))
    with pytest.raises(kind):
        illume("fail")


def test_the_help_imports_nothing_heavy():
    code = (
        "import sys; from illume_runtime.cli.main import main; main(['--help']); "
        "print(sorted({'numpy', 'onnxruntime', 'PIL', 'tokenizers', 'torch', 'onnx', 'asyncio'} & set(sys.modules)))"
    )
    assert in_new_process(code=code).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", ["draw", "describe", "edit", "reconstruct", "chat", "info"])
def test_the_help_of_a_verb_imports_no_engine(verb):
    code = (
        "import sys\nfrom illume_runtime.cli.main import main\n"
        f"try: main([{verb!r}, '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'onnxruntime', 'PIL', 'tokenizers', 'torch', 'onnx'} & set(sys.modules)))"
    )
    assert in_new_process(code=code).stdout.splitlines()[-1] == "[]"


def test_a_pipeline_imports_nothing_of_a_gpu():
    code = (
        "import sys; import illume_runtime.pipeline; parts = ('gpu', 'device'); "
        "print([name for name in sys.modules if name.startswith(tuple(f'illume_runtime.{part}' for part in parts))])"
    )
    assert in_new_process(code=code).stdout.splitlines()[-1] == "[]"


def test_a_mistake_in_a_new_process_shows_no_traceback(tmp_path):
    done = in_new_process("draw", str(tmp_path / "no.bundle"), "a", "-o", str(tmp_path / "out.png"), "--steps", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error():
    done = in_new_process(
        code="import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'illume_runtime', '--help'], stdout=subprocess.PIPE)\n"
        "child.stdout.close()\nprint(child.wait())"
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
