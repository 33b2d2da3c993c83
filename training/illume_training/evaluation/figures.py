"""Shares with their confidence intervals, and the targets that they are held to."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

Z95: Final = 1.959964  # two-sided 95 % quantile of the normal distribution

# (task, what is counted): the share on the test split that the recipe aims at.
TARGETS: Final = {
    ("questions", "all"): 0.95,
    ("draw", "object"): 0.95,
    ("draw", "count"): 0.85,
    ("draw", "color"): 0.92,
    ("draw", "spatial"): 0.85,
    ("edit", "all"): 0.80,
    ("reconstruct", "all"): 0.95,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """`num_right` of `num_cases` in one task, split and aspect; `target` is None where nothing is aimed at."""

    task: str
    split: str
    aspect: str
    num_right: int
    num_cases: int
    target: float | None

    @property
    def share(self) -> float:
        """Share of right cases, 0..1."""
        return self.num_right / self.num_cases

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share."""
        return wilson_interval(self.num_right, self.num_cases)

    @property
    def is_met(self) -> bool | None:
        """Whether the share reaches the target; None without one."""
        return None if self.target is None else self.share >= self.target

    def data(self) -> dict[str, Any]:
        """For JSON."""
        low, high = self.interval
        return {
            "task": self.task,
            "split": self.split,
            "aspect": self.aspect,
            "right": self.num_right,
            "cases": self.num_cases,
            "share": self.share,
            "low": low,
            "high": high,
            "target": self.target,
            "met": self.is_met,
        }


def wilson_interval(num_right: int, num_cases: int, z: float = Z95) -> tuple[float, float]:
    """Interval of a share (Wilson, 1927), within 0..1 and honest for small counts and shares near 0 or 1."""
    if not 0 <= num_right <= num_cases or num_cases == 0:
        raise ValueError(f"got {num_right} right of {num_cases}, expected 0 <= right <= cases and at least one case")
    share = num_right / num_cases
    spread = z * z / num_cases
    centre = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / num_cases + spread / num_cases / 4) / (1 + spread)
    # The ends are exact: rounding must not leave a share of 0 or 1 outside its interval.
    return (centre - half if num_right else 0.0), (centre + half if num_right < num_cases else 1.0)


class Tally:
    """Counts checks and gives figures, in the order in which aspects were first seen."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], list[int]] = {}

    def add(self, task: str, split: str, checks: dict[str, bool]) -> None:
        """Count one case: aspect -> right or wrong."""
        for aspect, right in checks.items():
            count = self._counts.setdefault((task, split, aspect), [0, 0])
            count[0] += right
            count[1] += 1

    def figures(self) -> list[Figure]:
        """All figures; targets apply to every split but the held-out combinations."""
        return [
            Figure(task, split, aspect, right, total, None if split == "held_out" else TARGETS.get((task, aspect)))
            for (task, split, aspect), (right, total) in self._counts.items()
        ]
