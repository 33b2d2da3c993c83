"""The latency chart: one bar per kind of request, cut into its stages, as inline SVG."""

from __future__ import annotations

from html import escape
from typing import Any, Final

WIDTH: Final = 860
LABEL_WIDTH: Final = 96
BAR_HEIGHT: Final = 30
ROW_HEIGHT: Final = 52
NUM_COLORS: Final = 8
SMALLEST_SHARE: Final = 0.02


def chart_svg(requests: list[dict[str, Any]]) -> str:
    """An SVG of the requests of an `illume profile --json` report; stages under 2 % are gathered as the rest."""
    longest_ms = max(request["median_ms"] for request in requests)
    names = _stages(requests)
    bars = "".join(_bar(request, names, row, longest_ms) for row, request in enumerate(requests))
    height = ROW_HEIGHT * len(requests)
    legend = "".join(f'<span><i class="c{names.index(name) % NUM_COLORS}"></i>{escape(name)}</span>' for name in names)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Milliseconds per stage">{bars}</svg>'
        f'<p class="legend">{legend}</p>'
    )


def _stages(requests: list[dict[str, Any]]) -> list[str]:
    seen = dict.fromkeys(
        row["name"] for request in requests for row in request["rows"] if row["share"] >= SMALLEST_SHARE
    )
    return [*(name for name in seen if name != "other"), "rest"]


def _bar(request: dict[str, Any], names: list[str], row: int, longest_ms: float) -> str:
    top = row * ROW_HEIGHT + (ROW_HEIGHT - BAR_HEIGHT) // 2
    full = (WIDTH - LABEL_WIDTH - 80) * request["median_ms"] / longest_ms
    parts: dict[str, float] = dict.fromkeys(names, 0.0)
    for stage in request["rows"]:
        parts[stage["name"] if stage["name"] in parts else "rest"] += stage["share"]
    middle = top + BAR_HEIGHT // 2 + 5
    pieces = [f'<text x="0" y="{middle}">{escape(request["name"])}</text>']
    left = float(LABEL_WIDTH)
    for number, (name, share) in enumerate(parts.items()):
        if share <= 0:
            continue
        tip = f"{name}: {share * request['median_ms']:.1f} ms, {share:.0%}"
        pieces.append(
            f'<rect class="c{number % NUM_COLORS}" x="{left:.1f}" y="{top}" width="{full * share:.1f}" '
            f'height="{BAR_HEIGHT}"><title>{escape(tip)}</title></rect>'
        )
        left += full * share
    pieces.append(f'<text x="{left + 8:.1f}" y="{middle}">{request["median_ms"]:.0f} ms</text>')
    return "".join(pieces)
