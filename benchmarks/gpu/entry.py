"""One line of the results, whether it was measured or not, and the jobs that give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

MEASURED, FAILED, ABSENT, SKIPPED = "measured", "failed", "absent", "skipped"
NO_TIME = "no time left"
OURS = "illume-rt"


@dataclass(frozen=True, slots=True)
class Entry:
    """Median and 10th and 90th percentile of `n` times in `unit`, or the reason why there are none.

    `floor` is what it takes at least, in the same unit; `is_checked` says that what it computed was compared with the
    definition first; `facts` are further numbers by name, with their unit in it.
    """

    name: str
    side: str = OURS
    status: str = MEASURED
    reason: str = ""
    unit: str = "us"
    median: float | None = None
    p10: float | None = None
    p90: float | None = None
    n: int = 0
    floor: float | None = None
    num_bytes: int = 0
    is_checked: bool = False
    exit_code: int = 0
    note: str = ""
    facts: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How far from the floor."""
        return self.median / self.floor if self.median is not None and self.floor else None

    @classmethod
    def of_times(cls, name: str, side: str, times: Sequence[float], **more: Any) -> Entry:
        """By several times, which are in the entry's unit."""
        low, median, high = (float(value) for value in np.percentile(times, (10, 50, 90)))
        return cls(name, side, median=median, p10=low, p90=high, n=len(times), **more)

    def as_json(self) -> dict[str, Any]:
        """Every key that says something, and the ratio."""
        kept = {key: value for key, value in asdict(self).items() if value not in (None, "", 0, {}, False)}
        return kept if self.ratio is None else {**kept, "ratio": self.ratio}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Entry:
        """The reverse of `as_json`."""
        names = {one.name for one in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in names})


@dataclass(frozen=True, slots=True)
class Job:
    """Work that gives entries, in the process of its section.

    It is not begun where less than `needs_s` is left, and stopped after `limit_s`.
    """

    name: str
    section: str
    side: str
    needs_s: float
    limit_s: float
    work: Callable[[Any], Iterable[Entry]]

    def not_done(self, status: str, reason: str, exit_code: int = 0) -> Entry:
        """The entry of a job that gave nothing, in one line."""
        line = " ".join(reason.split())
        return Entry(self.name, self.side, status, line[:300] or status, exit_code=exit_code)
