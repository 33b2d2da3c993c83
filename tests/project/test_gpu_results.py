"""What a run of the GPU's benchmark leaves: targets, the table, the last line, the file and the exit code."""

import dataclasses
import json
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.gpu import environment
from benchmarks.gpu.entry import ABSENT, FAILED, MEASURED, OURS, SKIPPED, Entry, Job
from benchmarks.gpu.environment import free_path
from benchmarks.gpu.plan import SECTIONS, jobs_of
from benchmarks.gpu.report import Report
from benchmarks.gpu.table import line_of
from benchmarks.gpu.targets import COMPILED, JOINT, targets
from benchmarks.gpu.timing import Limits, Sizes

OPTIONS = Namespace(bundle="b.bundle", model="illume-plus-3b", device=None, section=None, quick=False)
FACTS = {"gpu": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "date": "2026-11-27T10:00:00+00:00"}


def kernel(name, median=5.0, is_checked=True):
    return Entry.of_times(name, OURS, [median], floor=2.5, is_checked=is_checked)


def loop(side, median, floor=None, step_ms=None, **facts):
    facts = {"tokens_timed": 9, "tokens_of": 9, **({} if step_ms is None else {"step_ms": step_ms}), **facts}
    return Entry.of_times("tokens", side, [median], unit="ms", floor=floor, facts=facts)


def by_name(entries, words):
    return next(target for target in targets(entries, "illume-plus-3b") if words in target.name)


# ---- targets


@pytest.mark.parametrize(("segment", "limit"), [("pixel", 8.0), ("semantic", 6.0)])
@pytest.mark.parametrize(("more", "met"), [(0.0, True), (0.01, False)])
def test_the_sampler_has_to_keep_its_time(segment, limit, more, met):
    target = by_name([kernel(f"sample {segment} B=1", limit + more)], f"sample, {segment}")
    assert (target.got, target.met) == (limit + more, met)


def test_a_time_of_a_kernel_that_was_not_compared_does_not_count():
    assert by_name([kernel("sample pixel B=1", 1.0, is_checked=False)], "sample, pixel").met is None


def test_without_figures_nothing_is_met_and_nothing_missed():
    assert [target.met for target in targets([], None)] == [None] * 6
    assert all(target.got in (None, 0) for target in targets([], None))


def test_all_kernels_have_to_equal_their_definitions():
    good = [kernel("sample pixel B=1"), kernel("advance_step")]
    assert by_name(good, "bit-equal").met is True
    differs = Entry("head_gemv pixel int4", OURS, FAILED, "differs", exit_code=6)
    assert (by_name([*good, differs], "bit-equal").met, by_name([*good, differs], "bit-equal").got) == (False, 2)
    for status in (SKIPPED, FAILED, ABSENT):
        left = Entry("guidance_step", OURS, status, "no time left", exit_code=8 if status == FAILED else 0)
        target = by_name([*good, left], "bit-equal")
        assert target.met is None
        assert target.note == "not compared: guidance_step"
    peer = Entry("sample pixel B=1", "torch", FAILED, exit_code=8)
    assert by_name([*good, peer], "bit-equal").met is True


def test_the_loop_is_held_against_its_floor_and_the_compiled_reference():
    entries = [loop(JOINT, 130.0, floor=100.0), loop(COMPILED, 300.0)]
    assert (by_name(entries, "its floor").got, by_name(entries, "its floor").met) == (pytest.approx(1.3), True)
    assert by_name(entries, "compiled reference").met is True
    slow = [loop(JOINT, 140.0, floor=100.0), loop(COMPILED, 300.0)]
    assert (by_name(slow, "its floor").met, by_name(slow, "compiled reference").met) == (False, False)
    assert by_name(slow, "its floor").note == JOINT
    assert by_name([loop(JOINT, 140.0)], "its floor").met is None


def test_the_runtime_s_own_loop_comes_before_that_of_its_kernels_alone():
    entries = [loop(JOINT, 130.0, floor=100.0), loop(f"{OURS} cuda", 150.0, floor=100.0, is_same_model=1.0)]
    assert by_name(entries, "its floor").got == pytest.approx(1.5)
    other = [entries[0], dataclasses.replace(entries[1], facts={"is_same_model": 0.0})]
    assert by_name(other, "its floor").got == pytest.approx(1.3)


def test_the_share_of_sampling_is_that_of_a_step():
    entries = [kernel("sample pixel B=1", 9.0), loop(JOINT, 900.0, step_ms=0.3)]
    target = by_name(entries, "share")
    assert (target.got, target.met) == (pytest.approx(0.03), True)
    assert by_name([kernel("sample pixel B=1", 9.0), loop(JOINT, 900.0, step_ms=0.299)], "share").met is False
    assert by_name(entries[:1], "share").met is None


def test_the_floor_is_the_larger_of_bytes_and_a_launch():
    limits = Limits(bytes_per_s=2e12, launch_us=2.0)
    assert limits.floor_us(1_000_000) == 2.0
    assert limits.floor_us(40_000_000) == pytest.approx(20.0)
    assert Entry.of_times("x", OURS, [5.0], floor=2.0).ratio == 2.5
    assert Entry.of_times("x", OURS, [5.0]).ratio is None


@pytest.mark.parametrize("section", SECTIONS)
def test_one_section_alone_has_the_limits_too(section):
    jobs = jobs_of(Namespace(**{**vars(OPTIONS), "section": [section]}), Sizes())
    assert jobs[0].name == "limits"
    assert len(jobs) > 1
    whole = [(job.name, job.side) for job in jobs_of(OPTIONS, Sizes())]
    assert [(job.name, job.side) for job in jobs] == [one for one in whole if one in {(j.name, j.side) for j in jobs}]
    assert len(jobs) < len(whole)


# ---- table and last line


def whole_run():
    """Every job of a run with a bundle and a model, all measured."""
    report = Report(FACTS, {"model": "illume-plus-3b"}, None)
    for job in jobs_of(OPTIONS, Sizes()):
        is_kernel = job.side == OURS
        entry = Entry.of_times(job.name, job.side, [1234.5678], floor=123.456, is_checked=is_kernel)
        report.keep(job, entry)
        if job.side in ("torch", COMPILED, "flashinfer") and job.name.startswith(("sample", "head")):
            report.keep(job, Entry.of_times(job.name, f"{job.side} graph", [1234.5678]))
    return report


def test_ours_come_first_in_the_plan_and_every_name_once_a_side():
    jobs = jobs_of(OPTIONS, Sizes())
    assert len({(job.name, job.side) for job in jobs}) == len(jobs)
    assert jobs[0].name == "limits"
    sections = list(dict.fromkeys(job.section for job in jobs))
    assert sections[:4] == ["kernels", "loops on tensorrt", "loops on cuda", "model"]
    assert sections[-1] == "diffusion of the model"
    model = [job.side for job in jobs if job.section == "model"]
    assert model == [JOINT, COMPILED, "torch"]


def test_the_last_12000_characters_hold_what_matters(capsys):
    report = whole_run()
    capsys.readouterr()
    report.print_last()
    last = capsys.readouterr().out[-12_000:]
    lines = last.splitlines()
    kept = json.loads(lines[-1])
    assert kept["counts"] == {MEASURED: len(report.entries)}
    assert kept["median_and_ratio"][OURS]["sample pixel B=64 us"] == [1235.0, 10.0]
    assert [target["met"] for target in kept["targets"]][:3] == [True, False, False]
    assert sum(line.startswith("target: ") for line in lines) == 6
    for entry in report.entries:
        if entry.side.startswith(OURS):
            assert any(line.startswith(f"{entry.name:<28}{entry.side:<26}") for line in lines), entry.name


def test_the_table_says_what_is_missing_and_why(capsys):
    report = Report(FACTS, {}, None)
    job = Job("x", "s", "cupy", 0, 1, lambda bench: ())
    report.keep(job, job.not_done(ABSENT, "cupy: ImportError:\nno libnvrtc"))
    report.keep(job, job.not_done(ABSENT, "cupy: ImportError:\nno libnvrtc"))
    report.keep(job, job.not_done(FAILED, "it broke", 8))
    capsys.readouterr()
    report.print_last()
    out = capsys.readouterr().out
    assert "absent, 2 times: cupy: cupy: ImportError: no libnvrtc\n" in out
    assert "failed: it broke" in out
    assert out.count("\n") == len(out.splitlines())
    assert json.loads(out.splitlines()[-1])["counts"] == {"absent": 2, "failed": 1}


@pytest.mark.parametrize("value", [0.0123, 0.1, 1.0, 12.345, 9999.99, 70312.4, 9.9e6, 3.1e8])
def test_numbers_of_any_size_stay_apart(value):
    words = line_of(Entry.of_times("x", OURS, [value], floor=value)).split()
    assert [float(word) for word in words[2:6]] == pytest.approx([value] * 4, rel=0.05)
    assert words[6:] == ["1", "us"]


# ---- file and exit code


def test_the_file_is_there_whole_after_every_write(tmp_path, monkeypatch, capsys):
    path = free_path(tmp_path, FACTS["gpu"], FACTS["date"])
    report = Report(FACTS, {"model": None}, path)
    job = Job("x", "kernels", OURS, 0, 1, lambda bench: ())
    for count in (1, 2):
        report.keep(job, kernel("advance_step"))
        report.write()
        held = json.loads(path.read_text())
        assert len(held["sections"]["kernels"]) == count
        assert held["environment"] == FACTS
        assert len(held["targets"]) == 6
    assert report.exit_code() == 0

    def full(path, *given, **named):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    report.keep(job, kernel("advance_step"))
    report.write()
    assert "No space left on device" in capsys.readouterr().err
    assert report.exit_code() == 3
    assert len(json.loads(path.read_text())["sections"]["kernels"]) == 2
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_second_run_of_a_day_gets_a_name_of_its_own(tmp_path):
    names = [free_path(tmp_path / "gpu", FACTS["gpu"], FACTS["date"]).name for _ in range(3)]
    stem = "nvidia-h100-80gb-hbm3-2026-11-27"
    assert names == [f"{stem}.json", f"{stem}-2.json", f"{stem}-3.json"]


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([kernel("advance_step")], 0),
        ([kernel("advance_step"), Entry("x", "cupy", ABSENT), Entry("y", "torch", SKIPPED)], 0),
        ([kernel("advance_step"), Entry("x", "cupy", FAILED, exit_code=8)], 8),
        ([Entry("x", "cupy", FAILED, exit_code=7), Entry("sample", OURS, FAILED, exit_code=6)], 6),
        ([Entry("x", OURS, ABSENT)], 3),
        ([], 3),
    ],
)
def test_the_exit_code_says_that_something_failed(entries, code):
    report = Report(FACTS, {}, None)
    report.entries = entries
    assert report.exit_code() == code


def test_the_environment_names_everything(monkeypatch):
    monkeypatch.setattr(environment, "compute_capability", lambda: "9.0")
    monkeypatch.setattr(environment, "driver_version", lambda: (13, 0))
    monkeypatch.setattr(environment, "gpu_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(environment, "commit", lambda: "unknown")
    monkeypatch.setenv("ILLUME_COMMIT", "abc1234")
    facts = environment.environment()
    assert (facts["gpu"], facts["compute_capability"], facts["driver_cuda"]) == ("NVIDIA H100", "9.0", "13.0")
    assert {"numpy", "torch", "cuda-core", "cuda-bindings"} <= set(facts["versions"])
    assert facts["commit"] == "abc1234"
    assert {"date", "power_mode", "nvidia_smi"} <= set(facts)
    json.dumps(facts)
