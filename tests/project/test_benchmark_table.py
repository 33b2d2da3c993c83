"""The README's tables are those of the results, and a results file gives back what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import results as results_module
from benchmarks.results import Comparison, PeakMemory, ProfilerCost, Results, all_results, write_results
from benchmarks.table import BEGIN, END, README, markdown_of, readme_with, text_of_results
from illume_runtime.machine import Machine, MachineLimits
from illume_runtime.profile.report import RequestReport, StageRow

STAGE = StageRow("decode.level0", 63.0, 0.5, 0.75, 31.5, 0.9, 4000.0, 20.0, None, 0.64, "memory")
OTHER = StageRow("other", 1.0, 3.5, 3.5, 3.5, 0.1, None, None, None, None, None)
RESULTS = Results(
    machine=Machine("Linux x86_64", "Some CPU (TM) @ 2 GHz", 2, 1 << 34),
    limits=MachineLimits(2, 25e9, 120e9),
    date="2026-01-31",
    commit="abc1234",
    model="illume-tiny",
    versions={"python": "3.11.7", "torch": "2.13.0"},
    requests=(Comparison.of("draw, whole", [0.1, 0.1, 0.4], [0.3, 0.32, 0.34], 3.0),),
    cold_start=Comparison.of("process start to first token", [0.5], [2.0], None),
    memory=(PeakMemory.of("draw", 150_000_000, 600_000_000, 0.5),),
    profiler=ProfilerCost.of([0.101], [0.1], 200, 2e-6),
    stages=(RequestReport("draw", 11, 35.0, 36.0, (STAGE, OTHER)),),
)


def test_the_readme_shows_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert readme_with(text, markdown_of(all_results())) == text, "run python -m benchmarks.table"


def test_tables_hold_medians_ratios_and_shares() -> None:
    lines = markdown_of([RESULTS]).splitlines()
    assert "| draw, whole | 100.0 ms | 320.0 ms | 3.2x |" in lines
    assert "| process start to first token | 500.0 ms | 2000.0 ms | 4.0x |" in lines
    assert "| peak memory, draw | 150.0 MB | 600.0 MB | 25% |" in lines
    assert "| drawing with tracing on | 101.0 ms |  | +0.4% |" in lines
    assert "| decode.level0 | 63 | 31.5 | 90.0% | 64% memory |" in lines
    assert lines[0].startswith("Some CPU (TM) @ 2 GHz, 2 threads for both sides")
    assert "decode.level0" in text_of_results(RESULTS)


def test_a_results_file_gives_back_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_module, "FOLDER", tmp_path / "results")
    assert all_results() == []
    assert write_results(RESULTS).name == "some-cpu-tm-2-ghz-2-cores.json"
    assert all_results() == [RESULTS]


def test_a_results_file_with_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_module, "FOLDER", tmp_path)
    path = write_results(RESULTS)
    path.write_text(path.read_text().replace('"goal": 3.0', '"goal": "three"'))
    with pytest.raises(ValueError, match=r"requests\[0\].goal: got 'three', expected a number or null"):
        all_results()


def test_a_section_replaces_the_one_before() -> None:
    text = f"above\n\n{BEGIN}\nold\n{END}\n\nbelow\n"
    assert readme_with(text, "new") == text.replace("old", "new")
    with pytest.raises(ValueError, match="expected the lines"):
        readme_with("above", "new")
