"""The figures of the quality gate for people: tables for a terminal, and one HTML page with bars."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from illume_calibration.comparison import decibels
from illume_calibration.quality import LayerQuality
from illume_calibration.ranking import svg_from_damages
from illume_calibration.sensitivity import Damage
from illume_runtime.cli.table import megabytes, table
from illume_runtime.quantization import Quality

WORST_LAYERS = 5
FULL_BAR_DB = 60.0
BAR_WIDTH = 240

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}.bad{color:#b00020;font-weight:600}td rect{fill:#3b6ea5}"""

Rows = list[tuple[list[str], bool]]  # cells, and whether the row is within its bar


def quality_rows(quality: Quality) -> Rows:
    """What, figure, bar; of everything that has a bar, and of free agreement, which has none."""
    bars, failed = quality.bars, set(quality.failed)
    rows: Rows = []
    for name, stage in quality.stages.items():
        cells = [name, f"SQNR {stage.sqnr_db:.1f} dB, cosine {stage.cosine:.5f}", f">= {bars.sqnr_db:g} dB"]
        rows.append((cells, f"{name}: SQNR" not in failed))
        if stage.agreement is not None:
            cells = [name, f"equal codes {stage.agreement:.2%}", f">= {bars.codes:.0%}"]
            rows.append((cells, f"{name}: codes" not in failed))
    for name, segment in quality.segments.items():
        label = f"tokens of {name} ({segment.tokens})"
        rows.append(
            (
                [label, f"agreement {segment.agreement:.2%}", f">= {bars.agreement:.1%}"],
                f"{name}: agreement" not in failed,
            )
        )
        rows.append(([label, f"KL {segment.kl:.5f}", f"<= {bars.kl:g}"], f"{name}: KL" not in failed))
    pictures = quality.pictures
    if pictures is not None:
        label = f"pictures ({pictures.pictures})"
        psnr = f"PSNR {pictures.psnr_db:.1f} dB, worst {pictures.worst_psnr_db:.1f} dB"
        rows.append(([label, psnr, f">= {bars.psnr_db:g} dB"], "pictures: PSNR" not in failed))
        rows.append(([label, f"SSIM {pictures.ssim:.4f}", f">= {bars.ssim:g}"], "pictures: SSIM" not in failed))
    free = quality.free
    rows.append(
        ([f"free runs ({free.requests})", f"{free.agreement:.1%} of the tokens before the first other one", ""], True)
    )
    share = quality.num_bytes / quality.float_bytes
    size = f"{megabytes(quality.num_bytes)} of {megabytes(quality.float_bytes)}, {share:.3f}x"
    rows.append((["size", size, f"<= {bars.size:g}x"], "size" not in failed))
    return rows


def text_from_quality(quality: Quality, layers: Sequence[LayerQuality]) -> str:
    """The tables for a terminal."""
    rows = [[*cells, "" if not cells[2] else "ok" if ok else "UNDER"] for cells, ok in quality_rows(quality)]
    text = table(["quantized beside float", "", "bar", ""], rows)
    if layers:
        worst = [[f"{x.stage}: {x.name}", f"{x.sqnr_db:.1f} dB", f"{x.cosine:.5f}"] for x in layers[:WORST_LAYERS]]
        text += "\n\n" + table(["worst layers", "SQNR", "cosine"], worst)
    return text


def text_from_damages(damages: Sequence[Damage]) -> str:
    """The layers that hurt most when they alone are quantized."""
    rows = [
        [
            f"{d.stage}: {d.layer}",
            f"{d.sqnr_db:.1f} dB",
            f"{d.saved_bytes / 1e3:.0f} kB",
            f"{d.saved_ms:.3f} ms",
            f"{d.noise_per_megabyte:.1e}",
        ]
        for d in damages[:WORST_LAYERS]
    ]
    return table(["most sensitive layers", "SQNR alone", "saves", "a call", "noise per MB"], rows)


def html_from_quality(
    title: str, quality: Quality, layers: Sequence[LayerQuality], damages: Sequence[Damage] = ()
) -> str:
    """One page that needs nothing else."""
    verdict = (
        "all figures are within their bars" if not quality.failed else f"under the bar: {', '.join(quality.failed)}"
    )
    rows = "".join(
        f"<tr{'' if ok else ' class=bad'}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for cells, ok in quality_rows(quality)
    )
    of_layers = "".join(
        f"<tr><td>{escape(layer.stage)}: {escape(layer.name)}</td><td>{layer.sqnr_db:.1f}</td>"
        f"<td>{layer.cosine:.5f}</td><td>{_bar(layer.sqnr_db)}</td></tr>"
        for layer in layers
    )
    sensitivity = "".join(
        f"<tr><td>{escape(d.stage)}: {escape(d.layer)}</td><td>{d.sqnr_db:.1f}</td>"
        f"<td>{decibels(1.0, d.weights_noise):.1f}</td><td>{d.saved_bytes / 1e3:.0f}</td><td>{d.saved_ms:.3f}</td>"
        f"<td>{d.noise_per_megabyte:.1e}</td><td>{_bar(d.sqnr_db)}</td></tr>"
        for d in damages
    )
    if sensitivity:
        sensitivity = (
            f"<h2>Sensitivity, worst first</h2>{svg_from_damages(damages)}"
            "<p>The output of the stage with this layer alone quantized.</p><table>"
            "<tr><th>layer<th>SQNR dB<th>weights alone<th>saves kB<th>saves ms<th>noise per MB<th></tr>"
            f"{sensitivity}</table>"
        )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(verdict)}; {quality.requests} requests</p>"
        f"<table><tr><th>quantized beside float<th>figure<th>bar</tr>{rows}</table>"
        f"<h2>Layers, worst first</h2><p>The output of each layer with everything before it quantized too.</p>"
        f"<table><tr><th>layer<th>SQNR dB<th>cosine<th></tr>{of_layers}</table>{sensitivity}</html>\n"
    )


def _bar(sqnr_db: float) -> str:
    width = BAR_WIDTH * min(max(sqnr_db, 0.0), FULL_BAR_DB) / FULL_BAR_DB
    return f"<svg width={BAR_WIDTH} height=10><rect width={width:.0f} height=10 /></svg>"
