"""Runs jobs in processes of their own: one that hangs, crashes or spoils its CUDA context costs no other job."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep, time
from typing import Any

from benchmarks.gpu.entry import FAILED, NO_TIME, SKIPPED, Entry, Job
from benchmarks.gpu.kernels import LIMITS
from illume_runtime.errors import EngineError

POLL_S = 0.05
START_S = 60.0  # that a process may take until its first job
END_S = 10.0  # and behind its last one
HUNG = "stopped"


@dataclass
class Runner:
    """Does `jobs` in order until `deadline`, a time of the system's clock; `command` is what a worker is started with.

    `keep` is given every entry with its job, `after` is called behind each section's process.
    """

    jobs: Sequence[Job]
    command: Sequence[str]
    options: dict[str, Any]
    deadline: float
    keep: Callable[[Job, Entry], None]
    after: Callable[[], None]
    start_s: float = START_S
    limits: dict[str, float] | None = None
    _waiting: list[int] = field(default_factory=list)

    def run(self) -> None:
        """All jobs: each has at least one entry afterwards."""
        self._waiting = list(range(len(self.jobs)))
        with tempfile.TemporaryDirectory() as folder:
            while self._waiting:
                section = self.jobs[self._waiting[0]].section
                numbers = [i for i in self._waiting if self.jobs[i].section == section]
                left_s = self.deadline - time()
                if left_s < min(self.jobs[i].needs_s for i in numbers):
                    for i in numbers:
                        self._end(i, self.jobs[i].not_done(SKIPPED, NO_TIME))
                else:
                    self._run_process(numbers, Path(folder))
                self.after()

    def _run_process(self, numbers: list[int], folder: Path) -> None:
        request, report = folder / "request.json", folder / "report.jsonl"
        report.write_text("")
        text = {
            "options": self.options,
            "jobs": numbers,
            "deadline": self.deadline,
            "limits": self.limits,
            "report": str(report),
        }
        request.write_text(json.dumps(text), encoding="utf-8")
        with report.open(encoding="utf-8") as lines, subprocess.Popen([*self.command, str(request)]) as process:
            try:
                current, reason = self._followed(process, lines)
            finally:
                if process.poll() is None:
                    process.kill()
            process.wait()
            for line in _complete_lines(lines):  # what it wrote while it was stopped
                current = self._take(line, current)
        is_hung = reason is not None and reason.startswith(HUNG)
        if current is None and (set(numbers) & set(self._waiting)) == set(numbers):
            current = numbers[0]  # it ended before it began anything: no second try
            reason = reason or f"its process ended with {_ending(process.returncode)} before it began"
        if current is not None and current in self._waiting:
            is_late = reason is not None and reason.startswith(NO_TIME)
            said = reason or f"its process ended with {_ending(process.returncode)}"
            code = 0 if is_late else EngineError.exit_code
            self._end(current, self.jobs[current].not_done(SKIPPED if is_late else FAILED, said, code))
            if is_hung:
                self._skip_like(self.jobs[current])

    def _skip_like(self, hung: Job) -> None:
        """The same at other sizes would take its whole limit, too."""
        for i in [*self._waiting]:
            job = self.jobs[i]
            if (job.side, job.name.split()[0]) == (hung.side, hung.name.split()[0]):
                self._end(i, job.not_done(SKIPPED, f"{hung.name} had to be stopped"))

    def _followed(self, process: subprocess.Popen[bytes], lines: Any) -> tuple[int | None, str | None]:
        """Take entries until the process ends or has to: the job it was at, and why it has to end."""
        current, since, limit_s = None, time(), self.start_s
        while process.poll() is None:
            for line in _complete_lines(lines):
                current, since = self._take(line, current), time()
                limit_s = END_S if current is None else self.jobs[current].limit_s
            if time() > self.deadline:
                return current, f"{NO_TIME}: stopped after {time() - since:.0f} s"
            if time() - since > limit_s:
                return current, f"{HUNG}: nothing new for {limit_s:.0f} s"
            sleep(POLL_S)
        return current, None

    def _take(self, line: dict[str, Any], current: int | None) -> int | None:
        if "begin" in line:
            return int(line["begin"])
        if "end" in line:
            if line["end"] in self._waiting:
                self._waiting.remove(line["end"])
            return None
        entry = Entry.from_json(line["entry"])
        if entry.name == LIMITS and entry.facts:
            self.limits = {name: float(value or 0) for name, value in entry.facts.items()}
        self.keep(self.jobs[line["job"]], entry)
        return current

    def _end(self, number: int, entry: Entry) -> None:
        self._waiting.remove(number)
        self.keep(self.jobs[number], entry)


def _complete_lines(lines: Any) -> Iterator[dict[str, Any]]:
    while True:
        place = lines.tell()
        line = lines.readline()
        if not line.endswith("\n"):
            lines.seek(place)
            return
        yield json.loads(line)


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"exit code {code}"
