"""All that one run found, and the file that holds it, which is written anew after every section."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.entry import FAILED, MEASURED, Entry, Job
from benchmarks.gpu.table import line_of, summary, table
from benchmarks.gpu.targets import targets
from illume_runtime.errors import EngineError, QualityError, UnavailableError
from illume_runtime.files import atomic_write


class Report:
    """Entries by section; `path` is None where nothing is to be written."""

    def __init__(self, environment: Mapping[str, Any], options: Mapping[str, Any], path: Path | None) -> None:
        self.environment, self.options, self.path = environment, options, path
        self.entries: list[Entry] = []
        self._sections: list[str] = []
        self._is_written = True

    def keep(self, job: Job, entry: Entry) -> None:
        """Add an entry and print its line."""
        self.entries.append(entry)
        self._sections.append(job.section)
        print(line_of(entry), flush=True)

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        sections: dict[str, list[dict[str, Any]]] = {}
        for section, entry in zip(self._sections, self.entries, strict=True):
            sections.setdefault(section, []).append(entry.as_json())
        found = [asdict(target) for target in targets(self.entries, self.options.get("model"))]
        return {"environment": self.environment, "options": self.options, "targets": found, "sections": sections}

    def write(self) -> None:
        """The file, whole or not at all. Where that fails the run goes on: its output holds the figures too."""
        if self.path is None:
            return
        text = json.dumps(self.as_json(), indent=1) + "\n"
        self._is_written = False
        try:
            with atomic_write(self.path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            print(f"benchmarks.gpu: {error}", file=sys.stderr, flush=True)
        else:
            self._is_written = True

    def print_last(self) -> None:
        """The table, and the line of JSON."""
        found = targets(self.entries, self.options.get("model"))
        print(f"\n{self.environment.get('gpu')}, {self.environment.get('date')}")
        print(table(self.entries, found))
        where = {"file": str(self.path)} if self.path else {}
        print(summary(self.environment, self.entries, found, where), flush=True)

    def exit_code(self) -> int:
        """6 where a kernel differs from its definition, else 8 where anything failed, 3 without a figure or a file."""
        codes = {entry.exit_code for entry in self.entries if entry.status == FAILED}
        if QualityError.exit_code in codes:
            return QualityError.exit_code
        if codes:
            return EngineError.exit_code
        is_any = any(entry.status == MEASURED for entry in self.entries)
        return 0 if is_any and self._is_written else UnavailableError.exit_code
