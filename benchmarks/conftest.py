"""Both sides loaded once, the record of what was measured, and its file when every benchmark has run."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pytest

from benchmarks.results import Comparison, PeakMemory, ProfilerCost, Results, commit, write_results
from benchmarks.table import text_of_results
from illume_runtime.cli.main import main
from illume_runtime.machine import measured_limits, this_machine, usable_cores
from illume_runtime.profile.report import RequestReport

ROOT = Path(__file__).resolve().parents[1]
TRAINED = ROOT / "assets" / "illume-tiny"
BUILD = ROOT / "build" / "bench"
PAUSE_S = 0.01  # thread pools of one side spin for a while after a request: they shall not do it in the other's time


@dataclass
class Record:
    """What the benchmarks of this run have found so far."""

    threads: int
    checkpoint: Path
    requests: list[Comparison] = field(default_factory=list)
    cold_start: Comparison | None = None
    memory: list[PeakMemory] = field(default_factory=list)
    profiler: ProfilerCost | None = None
    stages: list[RequestReport] = field(default_factory=list)

    def results(self) -> Results | None:
        """All of it, None if a part was not measured."""
        if not (self.requests and self.cold_start and self.memory and self.profiler and self.stages):
            return None
        return Results(
            machine=this_machine(),
            limits=measured_limits(self.threads),
            date=datetime.now(UTC).date().isoformat(),
            commit=commit(),
            model="illume-tiny" if self.checkpoint != BUILD / "checkpoint" else "illume-tiny with random weights",
            versions={
                "python": platform.python_version(),
                **{name: version(name) for name in ("numpy", "onnxruntime", "torch")},
            },
            requests=tuple(self.requests),
            cold_start=self.cold_start,
            memory=tuple(self.memory),
            profiler=self.profiler,
            stages=tuple(self.stages),
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--checkpoint", help="folder of the checkpoint (assets/illume-tiny, or else random weights)")
    parser.addoption("--threads", type=int, help="threads of both sides (all cores)")
    parser.addoption("--quick", action="store_true", help="one round of each, to see that all of it works; no file")


@pytest.fixture(scope="session")
def threads(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--threads") or usable_cores()


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """The number of rounds to measure, from the number that is wanted."""
    return lambda wanted: 1 if request.config.getoption("--quick") else wanted


@pytest.fixture(scope="session")
def checkpoint(request: pytest.FixtureRequest) -> Path:
    given = request.config.getoption("--checkpoint")
    if given or (TRAINED / "config.json").exists():
        return Path(given or TRAINED).resolve()
    return _random_checkpoint(BUILD / "checkpoint")


@pytest.fixture(scope="session")
def bundle(checkpoint: Path) -> Path:
    output = BUILD / "bundle"
    assert main(["export", str(checkpoint), "-o", str(output)]) == 0
    return output


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest, threads: int, checkpoint: Path) -> Record:
    request.config.stash[_RECORD] = record = Record(threads, checkpoint)
    return record


@pytest.fixture
def compare(benchmark: Any, rounds: Callable[[int], int]) -> Callable[..., Comparison]:
    """Measures the runtime's side as the benchmark, and eager's before each of its rounds."""

    def measure(
        name: str, runtime: Callable[[], object], eager: Callable[[], object], wanted: int, goal: float | None
    ) -> Comparison:
        eager_s: list[float] = []

        def other_side() -> None:
            sleep(PAUSE_S)
            start_s = perf_counter()
            eager()
            eager_s.append(perf_counter() - start_s)
            sleep(PAUSE_S)

        benchmark.pedantic(runtime, setup=other_side, rounds=rounds(wanted), warmup_rounds=1)
        found = Comparison.of(name, benchmark.stats.stats.data, eager_s[1:], goal)
        benchmark.extra_info.update(eager_median_ms=found.eager.median_ms, speedup=found.speedup)
        return found

    return measure


_RECORD = pytest.StashKey[Record]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    record = config.stash.get(_RECORD, None)
    results = record.results() if record else None
    if results is None:
        return
    terminalreporter.write_line(text_of_results(results))
    if config.getoption("--quick"):
        return
    path = write_results(results)
    terminalreporter.write_line(f"wrote {path.relative_to(ROOT)}; python -m benchmarks.table puts it into the README")


def _random_checkpoint(folder: Path) -> Path:
    """A checkpoint of illume-tiny's size and random weights: what takes time takes as long with it."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch

    from illume_export.families.illume import checkpoint_from_model
    from illume_export.models import Illume, IllumeConfig
    from illume_training.recipe import GENERATION
    from illume_training.tokenizer import train_tokenizer

    torch.manual_seed(0)
    model = Illume(IllumeConfig.tiny())
    torch.nn.init.normal_(model.language_model.model.embed_tokens.weight, std=0.05)
    return checkpoint_from_model(model, folder, train_tokenizer(model.config), GENERATION)
