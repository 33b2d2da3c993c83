"""The GPU's benchmark: refused in one line without a GPU; a whole run of it on a fake driver."""

import json
import signal
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.entry import ABSENT, Entry
from benchmarks.gpu.loops import our_jobs
from benchmarks.gpu.plan import jobs_of
from benchmarks.gpu.timing import Limits, Sizes
from benchmarks.gpu.worker import entries_of
from fake_gpu import fake_gpu
from illume_runtime.bundle import Bundle
from illume_runtime.device import driver
from illume_runtime.errors import UnavailableError
from illume_runtime.gpu import sessions

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))

SCRIPT = """
import sys
from benchmarks.gpu import __main__ as benchmark, worker
from benchmarks.gpu.plan import jobs_of
from benchmarks.gpu.timing import Sizes

SMALL = Sizes(
    launches=4, replays=1, bandwidth_bytes=1024, batches=(1,), num_tokens=50, width=256, cold_bytes=1024, pictures=1
)
if sys.argv[1].endswith("request.json"):
    sys.exit(worker.main(sys.argv[1:], jobs_of, SMALL))
sys.exit(benchmark.main(sys.argv[1:], (sys.executable, __file__), SMALL))
"""


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(driver, "LIBRARY", "libnodriver.so.1")
    assert benchmark.main(["--quick"]) == 3
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("benchmarks.gpu: no NVIDIA driver")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "x"])
def test_a_wrong_number_of_minutes_is_refused(minutes, capsys):
    with pytest.raises(SystemExit) as refused:
        benchmark.main(["--minutes", minutes])
    assert refused.value.code == 2
    assert "--minutes" in capsys.readouterr().err


def test_a_bundle_that_is_not_there_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "environment", dict)
    assert benchmark.main(["--bundle", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("benchmarks.gpu: --bundle: ")


@pytest.mark.parametrize(("more", "num_files"), [([], 1), (["--quick"], 0)], ids=["whole", "quick"])
def test_what_fails_is_written_and_a_quick_run_writes_nothing(monkeypatch, tmp_path, capsys, more, num_files):
    monkeypatch.setattr(benchmark, "environment", lambda: {"gpu": "GPU", "date": "2026-11-27"})
    monkeypatch.setattr(benchmark, "FOLDER", tmp_path)
    sizes = Sizes(batches=(), segments=())
    assert benchmark.main(more, (sys.executable, "-c", "raise SystemExit(4)"), sizes) == 8
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["counts"] == {"failed": 6}
    files = [*tmp_path.glob("gpu/*.json")]
    assert len(files) == num_files
    for path in files:
        reasons = {entry["reason"] for entry in json.loads(path.read_text())["sections"]["kernels"]}
        assert reasons == {"its process ended with exit code 4 before it began"}


def test_an_interrupted_run_prints_and_writes_what_it_has(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "environment", lambda: {"gpu": "GPU", "date": "2026-11-27"})

    def measure(given, sizes, report, command, deadline):
        job = jobs_of(given, sizes)[0]
        assert given.section is None
        report.keep(job, Entry.of_times("guidance_step", "illume-rt", [3.0], is_checked=True))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(benchmark, "measure", measure)
    assert benchmark.main(["--output", str(tmp_path)]) == 143
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["median_and_ratio"] == {"illume-rt": {"guidance_step us": [3.0]}}
    assert "guidance_step" in Path(last["file"]).read_text()


def test_a_whole_run_over_the_fake_driver(tmp_path):
    from fake_machine import library_folder, run

    if library_folder() is None:
        pytest.skip("g++ is not installed")
    pytest.importorskip("cuda.core")
    script = tmp_path / "small_run.py"
    script.write_text(SCRIPT)
    path = ":".join((str(Path(benchmark.__file__).parents[2]), *filter(None, sys.path)))
    words = [str(script), "--model", "illume-plus-3b", "--minutes", "2"]
    done = run([*words, "--output", str(tmp_path / "out")], PYTHONPATH=path)
    assert done.returncode == 0, done.stderr[-3000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["targets"][0] == {
        "name": "kernels bit-equal to the oracle before they are timed", "wanted": "all 17", "got": 17, "met": True
    }  # fmt: skip
    assert last["counts"]["measured"] == 18
    assert set(last["counts"]) == {"measured", "absent"}
    assert "times: torch: torch: it sees no GPU; install a build for CUDA" in done.stdout
    (path,) = (tmp_path / "out").iterdir()
    assert last["file"] == str(path)
    held = json.loads(path.read_text())
    assert held["environment"]["gpu"] == "fake GPU"
    assert len(held["sections"]["kernels"]) == 18
    assert {target["met"] for target in held["targets"]} <= {True, False, None}


# ---- loops of a bundle


SMALL = Sizes(pictures=2)


def loops(bundle, device, trace=None):
    options = Namespace(bundle=str(bundle), trace=trace, model=f"somewhere/{Bundle.open(bundle).name}")
    found = []
    (job,) = our_jobs([device])
    entries_of(job, Bench(options, SMALL, Limits(1e9, 1.0), deadline=1e12), found.append)
    return found


def test_our_loops_are_timed_with_what_the_device_did(bundle, monkeypatch, tmp_path):
    monkeypatch.setattr(sessions, "gpu_sessions", lambda bundle, name: fake_gpu())
    found = loops(bundle, "cuda", str(tmp_path / "trace.json"))
    assert [(one.side, one.name, one.n) for one in found] == [
        ("illume-rt cuda", name, 2) for name in ("tokens", "diffusion", "picture")
    ]
    tokens, diffusion, picture = found
    assert picture.median > max(tokens.median, diffusion.median)
    assert picture.facts["device_ms"] is None
    weights = Bundle.open(bundle).stage("denoiser").weight_bytes
    assert diffusion.floor == pytest.approx(2 * weights / 1e9 * 1e3)  # two steps
    assert tokens.facts["device_ms"] > 0
    assert tokens.facts["is_same_model"] == 1
    assert tokens.facts["step_ms"] * tokens.facts["num_steps"] == pytest.approx(tokens.median, rel=0.5)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert "device" in [event["args"]["name"] for event in events if event["name"] == "thread_name"]


def test_a_device_that_cannot_be_had_is_absent_with_the_reason(bundle, monkeypatch):
    def open_gpu(bundle, name):
        raise UnavailableError("device tensorrt: there are no engines")

    monkeypatch.setattr(sessions, "gpu_sessions", open_gpu)
    (entry,) = loops(bundle, "tensorrt")
    assert (entry.status, entry.reason) == (ABSENT, "device tensorrt: there are no engines")
