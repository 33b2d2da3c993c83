"""The GPU's benchmark runs its jobs in processes: what one of them does to its process costs no other job."""

import sys
from time import sleep, time

import pytest

from benchmarks.gpu.entry import ABSENT, FAILED, MEASURED, SKIPPED, Entry, Job
from benchmarks.gpu.running import Runner
from illume_runtime.errors import QualityError

SCRIPT = """
import os, signal, sys, time
from benchmarks.gpu.bench import peer_module
from benchmarks.gpu.entry import Entry, Job
from benchmarks.gpu.worker import main
from illume_runtime.errors import QualityError

def good(bench):
    yield Entry.of_times("good", "us", [1.0, 2.0, 3.0], facts={"process": float(os.getpid())})

def half(bench):
    yield Entry.of_times("first", "us", [1.0])
    raise ValueError("two\\nlines")

def differs(bench):
    raise QualityError("sample: got 1, the definition gives 2")

def crashes(bench):
    yield Entry.of_times("before", "us", [1.0])
    os.kill(os.getpid(), signal.SIGSEGV)

def hangs(bench):
    yield Entry.of_times("before", "us", [1.0])
    time.sleep(60)

def exits(bench):
    sys.exit("a library that ends the process")

def absent(bench):
    peer_module("broken_peer")

def limits(bench):
    yield Entry("limits", facts={"bytes_per_s": 2e9, "launch_us": 3.0})

def told(bench):
    yield Entry.of_times("told", "us", [bench.floor_us(0)])

def left(bench):
    yield Entry.of_times("left", "us", [bench.left_s])

NAMES = dict(globals())

def jobs_of(options, sizes):
    return [Job(name, section, "us", needs, limit, NAMES[name]) for name, section, needs, limit in options.jobs]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], jobs_of))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs jobs (name, section, needs_s, limit_s); gives (name of the job, entry) of each, and the calls of after."""
    script = tmp_path / "fake_worker.py"
    script.write_text(SCRIPT)
    (tmp_path / "broken_peer.py").write_text("raise SystemExit('its driver is too old')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(path for path in sys.path if path)}")

    def run(*jobs, seconds=30.0, command=None):
        found, after = [], []
        given = [Job(name, section, "us", needs, limit, lambda bench: ()) for name, section, needs, limit in jobs]
        runner = Runner(
            given,
            command or (sys.executable, str(script)),
            {"jobs": jobs, "quick": False},
            time() + seconds,
            lambda job, entry: found.append((job.name, entry)),
            lambda: after.append(len(found)),
        )
        runner.run()
        return found, after

    return run


def states(found):
    return [(name, entry.status) for name, entry in found]


def test_jobs_of_a_section_share_a_process_and_sections_do_not(run):
    found, after = run(("good", "a", 0, 9), ("good", "a", 0, 9), ("good", "b", 0, 9))
    assert states(found) == [("good", MEASURED)] * 3
    processes = [entry.facts["process"] for _, entry in found]
    assert processes[0] == processes[1] != processes[2]
    assert after == [2, 3]
    assert (found[0][1].p10, found[0][1].median, found[0][1].n) == (pytest.approx(1.2), 2.0, 3)


def test_a_failure_is_one_line_and_what_follows_gets_a_new_process(run):
    found, _ = run(("good", "a", 0, 9), ("half", "a", 0, 9), ("differs", "a", 0, 9), ("good", "a", 0, 9))
    assert states(found) == [
        ("good", MEASURED),
        ("half", MEASURED),
        ("half", FAILED),
        ("differs", FAILED),
        ("good", MEASURED),
    ]
    assert found[2][1].reason == "ValueError: two lines"
    assert (found[2][1].exit_code, found[3][1].exit_code) == (8, QualityError.exit_code)
    assert found[0][1].facts["process"] != found[4][1].facts["process"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("crashes", "its process ended with SIGSEGV"), ("hangs", "stopped: nothing new for 1 s")],
)
def test_a_job_that_takes_its_process_along_keeps_what_it_had_found(run, name, reason):
    found, _ = run((name, "a", 0, 1.0), ("good", "a", 0, 9))
    assert states(found) == [(name, MEASURED), (name, FAILED), ("good", MEASURED)]
    assert found[1][1].reason == reason


def test_what_hung_is_not_tried_at_other_sizes(run):
    found, _ = run(("hangs", "a", 0, 1.0), ("good", "a", 0, 9), ("hangs", "a", 0, 1.0), ("hangs", "b", 0, 1.0))
    assert states(found) == [
        ("hangs", MEASURED),
        ("hangs", FAILED),
        ("hangs", SKIPPED),
        ("hangs", SKIPPED),
        ("good", MEASURED),
    ]
    assert found[2][1].reason == "hangs had to be stopped"


def test_a_library_that_exits_fails_alone(run):
    found, _ = run(("exits", "a", 0, 9), ("good", "a", 0, 9))
    assert states(found) == [("exits", FAILED), ("good", MEASURED)]
    assert found[0][1].reason == "SystemExit: a library that ends the process"


def test_a_peer_that_cannot_be_imported_is_absent_whatever_it_raises(run):
    found, _ = run(("absent", "a", 0, 9), ("good", "a", 0, 9))
    assert states(found) == [("absent", ABSENT), ("good", MEASURED)]
    assert found[0][1].reason == "broken_peer: SystemExit: its driver is too old"


def test_a_worker_that_does_not_start_is_tried_once_for_each_job(run, tmp_path):
    found, _ = run(("good", "a", 0, 9), ("good", "a", 0, 9), command=(sys.executable, str(tmp_path / "missing.py")))
    assert states(found) == [("good", FAILED)] * 2
    assert found[0][1].reason == "its process ended with exit code 2 before it began"


def test_limits_reach_the_processes_of_later_sections(run):
    found, _ = run(("limits", "a", 0, 9), ("told", "b", 0, 9))
    assert found[1][1].median == 3.0


def test_jobs_that_do_not_fit_are_skipped_and_shorter_ones_behind_them_are_done(run):
    found, _ = run(("good", "a", 500, 900), ("left", "a", 0, 9), ("good", "b", 500, 900), seconds=20)
    assert states(found) == [("good", SKIPPED), ("left", MEASURED), ("good", SKIPPED)]
    assert found[0][1].reason.startswith("no time left")
    assert found[2][1].reason == "no time left"
    assert 0 < found[1][1].median < 20


def test_nothing_runs_behind_the_deadline(run):
    start = time()
    found, after = run(("hangs", "a", 0, 50), ("good", "a", 0, 9), ("good", "b", 0, 9), seconds=6)
    assert time() - start < 15
    assert states(found) == [("hangs", MEASURED), ("hangs", SKIPPED), ("good", SKIPPED), ("good", SKIPPED)]
    assert found[1][1].reason.startswith("no time left: stopped after")
    assert after


def test_an_interruption_ends_the_worker(run, monkeypatch):
    def interrupted(seconds):
        sleep(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.gpu.running.sleep", interrupted)
    start = time()
    with pytest.raises(KeyboardInterrupt):
        run(("hangs", "a", 0, 50))
    assert time() - start < 15


def test_entries_go_through_json_unchanged():
    entry = Entry.of_times("x", "us", [1.0, 2.0], unit="ms", floor=0.5, is_checked=True, note="n", facts={"a": 1.0})
    assert Entry.from_json(entry.as_json()) == entry
    assert entry.as_json()["ratio"] == 3.0
