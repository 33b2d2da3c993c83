"""The results for people, and the one line of JSON that ends the output.

Peers stand first and ours last: of an output that is cut off at its beginning, what matters is left.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.entry import ABSENT, MEASURED, OURS, Entry
from benchmarks.gpu.targets import Target

REASON = 90  # characters


def line_of(entry: Entry) -> str:
    """An entry in the table."""
    head = f"{entry.name:<28}{entry.side:<26}"
    if entry.status != MEASURED:
        return f"{head} {entry.status}: {entry.reason[:REASON]}"
    cells = "".join(f"{_number(value):>8}" for value in (entry.median, entry.p10, entry.p90, entry.floor, entry.ratio))
    return f"{head}{cells} {entry.unit}"


def table(entries: Sequence[Entry], targets: Sequence[Target]) -> str:
    """All entries, what is absent in one line for each reason, and the targets."""
    ours = [entry for entry in entries if entry.side.startswith(OURS)]
    peers = [entry for entry in entries if not entry.side.startswith(OURS)]
    absent = Counter((entry.side, entry.reason[:REASON]) for entry in entries if entry.status == ABSENT)
    heads = "".join(f"{word:>8}" for word in ("median", "p10", "p90", "floor", "ratio"))
    lines = [f"{'':<54}{heads}"]
    lines += [line_of(entry) for entry in (*peers, *ours) if entry.status != ABSENT]
    lines += [f"absent, {count} times: {side}: {reason}" for (side, reason), count in absent.items()]
    return "\n".join([*lines, *map(_target, targets)])


def summary(
    environment: Mapping[str, Any], entries: Sequence[Entry], targets: Sequence[Target], more: Mapping[str, Any]
) -> str:
    """One line of JSON: by side and name the median and its ratio to the floor, counts by status, the targets."""
    medians: dict[str, dict[str, list[float | None]]] = {}
    for entry in entries:
        if entry.status == MEASURED:
            name = f"{entry.name} {entry.unit}"
            medians.setdefault(entry.side, {})[name] = [_short(value) for value in (entry.median, entry.ratio) if value]
    told = ("gpu", "compute_capability", "driver_cuda", "date", "commit")
    values = {
        **{key: environment.get(key) for key in told},
        "median_and_ratio": medians,
        "counts": dict(Counter(entry.status for entry in entries)),
        "targets": [
            {"name": one.name, "wanted": one.wanted, "got": _short(one.got), "met": one.met} for one in targets
        ],
        **more,
    }
    return json.dumps(values, separators=(",", ":"))


def _target(target: Target) -> str:
    verdict = {True: "met", False: "MISSED", None: "not measured"}[target.met]
    note = f" ({target.note[:REASON]})" if target.note else ""
    return f"target: {target.name}: wanted {target.wanted}, got {_number(target.got) or '-'}: {verdict}{note}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 1e7:
        return f"{value:.1e}"
    if value >= 1e4 or float(value).is_integer():
        return f"{value:.0f}"
    return f"{value:.2g}" if 0 < value < 0.1 else f"{value:.2f}"


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
