"""The ranking of layers as a picture: what a megabyte of each costs in noise, the dearest first. Plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log10
from typing import Final

from illume_calibration.sensitivity import Damage, by_damage_per_byte

MAX_BARS: Final = 40
ROW, LABELS, BARS, NUMBERS, TOP, BOTTOM = 18, 330, 300, 240, 46, 24  # pixels
COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")  # told apart by everyone
LEAST: Final = 1e-12  # of what a logarithm is taken


def svg_from_damages(damages: Sequence[Damage]) -> str:
    """A bar for each of the worst layers on a logarithmic scale, one colour a stage, its figures beside it."""
    ranked = by_damage_per_byte(damages)
    shown = ranked[:MAX_BARS]
    stages = sorted({damage.stage for damage in damages})
    logs = [log10(max(damage.noise_per_megabyte, LEAST)) for damage in shown]
    low, high = floor(min(logs)), floor(max(logs)) + 1
    height = TOP + ROW * len(shown) + BOTTOM
    width = LABELS + BARS + NUMBERS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui,sans-serif" font-size="12" fill="#222">',
        "<title>Noise per megabyte saved</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{LABELS}" y="16">noise per megabyte saved (share of the stage\'s power)</text>',
        f'<text x="{LABELS + BARS + 10}" y="16">SQNR alone, bytes and time saved</text>',
    ]
    for exponent in range(low, high + 1):
        x = LABELS + BARS * (exponent - low) / (high - low)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{height - BOTTOM}" stroke="#ddd"/>')
        if (high - exponent) % max(1, (high - low) // 6) == 0:
            parts.append(f'<text x="{x:.1f}" y="{TOP - 12}" text-anchor="middle">1e{exponent}</text>')
    for i, (damage, value) in enumerate(zip(shown, logs, strict=True)):
        y = TOP + ROW * i
        color = COLORS[stages.index(damage.stage) % len(COLORS)]
        figures = f"{damage.sqnr_db:.1f} dB, {damage.saved_bytes / 1e3:,.0f} kB, {damage.saved_ms:.3f} ms"
        parts += [
            f'<text x="{LABELS - 8}" y="{y + 13}" text-anchor="end">{escape(_shortened(damage))}</text>',
            f'<rect x="{LABELS}" y="{y + 3}" width="{max(BARS * (value - low) / (high - low), 1):.1f}" '
            f'height="{ROW - 6}" fill="{color}"/>',
            f'<text x="{LABELS + BARS + 10}" y="{y + 13}">{figures}</text>',
        ]
    if len(ranked) > len(shown):
        rest = f"and {len(ranked) - len(shown)} layers whose bytes are cheaper"
        parts.append(f'<text x="{LABELS - 8}" y="{height - 8}" text-anchor="end">{rest}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _shortened(damage: Damage) -> str:
    """The layer's name with its stage, the front of a long name left out."""
    name, room = damage.layer, 48 - len(damage.stage)
    return f"{damage.stage}: {name if len(name) <= room else '…' + name[1 - room :]}"
