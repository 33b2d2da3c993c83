"""The contact sheet: one HTML file without scripts or anything from the network; pictures lie beside it."""

from __future__ import annotations

from html import escape
from statistics import median
from typing import Any

from illume_training.demo.chart import chart_svg
from illume_training.demo.results import Answered, Changed, Drawn, Results, Shown

STYLE = """
:root { color-scheme: light dark; --ink: #1c1d22; --soft: #6a6d78; --paper: #fbfaf7; --card: #fff; --line: #e3e1da;
  --good: #1f7a45; --bad: #b3382c; }
@media (prefers-color-scheme: dark) { :root { --ink: #ecebe6; --soft: #9a9ca6; --paper: #16171a; --card: #1f2024;
  --line: #33343a; --good: #6fcf97; --bad: #f08c7d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 960px; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 2.1rem; letter-spacing: -.02em; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 3.2rem 0 .2rem; }
p { margin: .2rem 0 1rem; color: var(--soft); }
.grid { display: grid; gap: 1.1rem; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); }
figure { margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
figure div { display: flex; gap: .5rem; align-items: center; }
img { display: block; width: 100%; min-width: 0; flex: 1; border-radius: 7px; image-rendering: auto; }
figcaption { margin-top: .6rem; font-size: .92rem; }
.wide { grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); }
@media (max-width: 480px) { .wide { grid-template-columns: 1fr; } }
dl { margin: .7rem 0 0; font-size: .92rem; }
dt { color: var(--soft); margin-top: .45rem; } dd { margin: 0; }
.right::after { content: " \\2713"; color: var(--good); } .wrong { color: var(--bad); }
small { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 1.2rem 0 .4rem; }
th, td { padding: .32rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } th { color: var(--soft); font-weight: 500; }
svg { width: 100%; } svg text { fill: var(--ink); font-size: 14px; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .85rem; }
.legend i { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .4em; }
""" + "".join(
    f".c{number} {{ fill: {color}; background: {color}; }}\n"
    for number, color in enumerate(
        ("#4c78c9", "#e08a3c", "#4fa37a", "#c65b6d", "#8b6cc1", "#c9a83f", "#4fb0bd", "#9a9ca6")
    )
)


def page_html(results: Results, profile: dict[str, Any]) -> str:
    """The whole page from the pictures and answers and the object of `illume profile --json`."""
    machine, limits = profile["machine"], profile["limits"]
    facts = (
        f"{machine['cpu']}, {limits['threads']} threads, reads {limits['memory_bytes_per_s'] / 1e9:.0f} GB/s "
        f"and computes {limits['float32_flops_per_s'] / 1e9:.0f} GFLOP/s in float32 (measured). "
        f"Loaded in {profile['load_ms']:.0f} ms, peak memory {profile['peak_memory_bytes'] / 1e6:.0f} MB"
    )
    if profile["cold_start_ms"]:
        facts += f", process start to first token {median(profile['cold_start_ms']):.0f} ms"
    sections = [
        _section("Drawing", "Two seeds for each prompt.", "grid wide", map(_drawn, results.drawn)),
        _section("Editing", "Before and after.", "grid wide", map(_changed, results.edited)),
        _section(
            "Understanding",
            "Scenes that training never saw. A tick: the answer is the one right answer; else that follows.",
            "grid",
            map(_shown, results.shown),
        ),
        _section(
            "Reconstruction",
            "Only the visual tokens pass from left to right.",
            "grid wide",
            map(_changed, results.reconstructed),
        ),
        f"<h2>Latency</h2><p>{escape(facts)}.</p>{chart_svg(profile['requests'])}",
        "".join(map(_table, profile["requests"])),
    ]
    name = escape(profile["bundle"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{STYLE}</style></head><body><h1>{name}</h1>"
        "<p>One model that describes, draws and edits pictures, exported to ONNX and run by illume-rt. "
        f"Everything below was made on {escape(profile['device'])} just now.</p>{''.join(sections)}</body></html>\n"
    )


def _section(title: str, words: str, layout: str, figures: Any) -> str:
    return f'<h2>{title}</h2><p>{words}</p><div class="{layout}">{"".join(figures)}</div>'


def _image(file: str, words: str) -> str:
    return f'<img src="{escape(file)}" width="256" height="256" alt="{escape(words)}">'


def _drawn(drawn: Drawn) -> str:
    images = "".join(_image(file, drawn.prompt) for file in drawn.files)
    return f"<figure><div>{images}</div><figcaption>{escape(drawn.prompt)}</figcaption></figure>"


def _changed(changed: Changed) -> str:
    images = f"{_image(changed.before, 'before')}<small>→</small>{_image(changed.after, 'after')}"
    words = f"<figcaption>{escape(changed.words)}</figcaption>" if changed.words else ""
    return f"<figure><div>{images}</div>{words}</figure>"


def _shown(shown: Shown) -> str:
    answers = "".join(map(_answered, shown.answers))
    return f"<figure>{_image(shown.file, 'a test scene')}<dl>{answers}</dl></figure>"


def _answered(one: Answered) -> str:
    right = one.answer.strip() == one.expected
    expected = "" if right else f" <small>(it is: {escape(one.expected)})</small>"
    kind = "right" if right else "wrong"
    return f'<dt>{escape(one.question)}</dt><dd><span class="{kind}">{escape(one.answer)}</span>{expected}</dd>'


def _table(request: dict[str, Any]) -> str:
    header = "".join(
        f"<th>{name}</th>"
        for name in ("stage", "calls", "ms each", "p90", "ms", "share", "tokens/s", "GB/s", "GFLOP/s", "of limit")
    )
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(row)) + "</tr>" for row in request["rows"]
    )
    caption = f"{escape(request['name'])}: {request['median_ms']:.0f} ms, median of {request['repeats']}"
    return f'<div class="scroll"><table><caption>{caption}</caption><tr>{header}</tr>{body}</table></div>'


def _cells(row: dict[str, Any]) -> list[str]:
    limit = "" if row["limit_share"] is None else f"{row['limit_share']:.0%} {row['bound_by']}"
    rates = ["" if row[key] is None else f"{row[key]:.1f}" for key in ("tokens_per_s", "gb_per_s", "gflop_per_s")]
    return [
        row["name"],
        f"{row['calls_per_request']:g}",
        f"{row['median_ms']:.2f}",
        f"{row['p90_ms']:.2f}",
        f"{row['request_ms']:.1f}",
        f"{row['share']:.1%}",
        *rates,
        limit,
    ]
