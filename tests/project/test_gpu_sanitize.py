"""`--sanitize`: what compute-sanitizer's tools print becomes entries. The program itself is a stand-in here."""

import stat
import sys
from time import time

import pytest

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu import sanitize
from benchmarks.gpu.entry import FAILED, MEASURED, SKIPPED
from illume_runtime.errors import UnavailableError

CLEAN = "========= COMPUTE-SANITIZER\nsample n=1\nadvance_step\n========= ERROR SUMMARY: 0 errors\n"
HAZARDS = (
    "========= Error: Race reported between Write access\n"
    "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n"
)
INVALID = (
    "sample n=1\n========= Invalid __global__ read of size 16 bytes\n=========     at head_gemv_w8_2+0x40\n"
    "========= ERROR SUMMARY: 3 errors\n"
)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program that prints what is given for each tool, and ends with a code."""

    def make(outputs, code=0):
        path = tmp_path / "compute-sanitizer"
        path.write_text(
            f"#!{sys.executable}\nimport sys\nassert sys.argv[1] == '--tool'\n"
            f"print({outputs!r}.get(sys.argv[2], {CLEAN!r}), end='')\nsys.exit({code})\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return str(path)

    return make


def entry_of(program, tool="memcheck", left_s=60.0):
    (entry,) = sanitize.sanitize_job(tool).work((program, time() + left_s))
    return entry


def test_no_error_is_measured_with_the_number_of_cases(program):
    entry = entry_of(program({}))
    assert (entry.status, entry.unit, entry.facts) == (MEASURED, "s", {"errors": 0, "cases": 2})
    assert entry.note == "0 errors in 2 cases"


@pytest.mark.parametrize(
    ("tool", "output", "reason"),
    [
        ("racecheck", HAZARDS, "2 errors: Error: Race reported between Write access"),
        ("memcheck", INVALID, "3 errors: Invalid __global__ read of size 16 bytes"),
    ],
)
def test_errors_are_a_failure_that_names_the_first(program, tool, output, reason):
    entry = entry_of(program({tool: output}), tool)
    assert (entry.status, entry.reason, entry.exit_code) == (FAILED, reason, 6)


def test_a_kernel_that_differs_under_the_tool_is_a_failure(program):
    output = f"launch_all: sample: 1 of 3 values differ\n{CLEAN}"
    entry = entry_of(program({"memcheck": output}, code=6))
    assert (entry.status, entry.reason, entry.exit_code) == (FAILED, "launch_all: sample: 1 of 3 values differ", 6)


def test_an_output_without_a_summary_is_a_failure(program):
    entry = entry_of(program({"memcheck": "Unable to attach\n"}, code=1))
    assert (entry.status, entry.reason) == (FAILED, "no summary, exit code 1: Unable to attach")
    assert entry_of("/no/such/program").status == FAILED


def test_a_tool_for_which_no_time_is_left_is_skipped(program):
    assert entry_of(program({}), left_s=1.0).status == SKIPPED


@pytest.fixture
def gpu_facts(monkeypatch):
    facts = {"gpu": "fake GPU", "date": "2026-11-27"}
    monkeypatch.setattr(benchmark, "environment", lambda: facts)


def test_all_four_tools_run_and_an_error_of_one_is_the_exit_code(program, gpu_facts, tmp_path, capsys):
    program({"racecheck": HAZARDS})
    assert benchmark.main(["--sanitize", "--output", str(tmp_path / "out")]) == 6
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:4]] == list(sanitize.TOOLS)
    held = (tmp_path / "out" / "fake-gpu-2026-11-27.json").read_text()
    assert '"errors": 2' in held


def test_without_the_program_one_line_says_so(gpu_facts, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert benchmark.main(["--sanitize", "--output", str(tmp_path / "out")]) == UnavailableError.exit_code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        "benchmarks.gpu: --sanitize: compute-sanitizer is not on the PATH; install it with the CUDA toolkit\n"
    )
    assert not (tmp_path / "out").exists()
