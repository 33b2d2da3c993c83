"""The page of the demonstration: complete, self-contained, and honest about wrong answers."""

import re
from html.parser import HTMLParser

import pytest

from illume_runtime.machine import MachineLimits
from illume_runtime.profile import REQUEST, report_from_spans
from illume_runtime.trace import Tracer
from illume_training.demo.chart import chart_svg
from illume_training.demo.page import page_html
from illume_training.demo.results import Answered, Changed, Drawn, Results, Shown, collect

VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Checks that every element is closed in order, and keeps the sources of the pictures."""

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def profile():
    from dataclasses import asdict

    tracer = Tracer()
    with tracer.span("draw", REQUEST), tracer.span("decode.level0", num_bytes=10, tokens=1):
        sum(range(10_000))
    limits = MachineLimits(2, 1e9, 1e9)
    return {
        "bundle": "illume-tiny",
        "device": "cpu",
        "machine": {"cpu": "a <processor>", "cores": 2},
        "limits": asdict(limits),
        "load_ms": 100.0,
        "cold_start_ms": [300.0, 310.0, 320.0],
        "peak_memory_bytes": 10**8,
        "requests": [asdict(report_from_spans("draw", tracer.spans, limits))],
    }


def results():
    return Results(
        (Shown("scene-0.png", (Answered("how many?", "three", "three"), Answered("which?", "<red>", "blue"))),),
        (Drawn("a <b>red</b> circle", ("drawing-0-0.png",)),),
        (Changed("make it blue", "edit-before.png", "edit-after.png"),),
        (Changed("", "scene-0.png", "reconstruction-0.png"),),
    )


def test_the_page_is_balanced_and_escapes_what_the_model_said(profile):
    html = page_html(results(), profile)
    parser = Balance()
    parser.feed(html)
    assert parser.open == []
    assert "<b>red" not in html
    assert "&lt;red&gt;" in html
    assert "a &lt;processor&gt;" in html


def test_the_page_fetches_nothing(profile):
    html = page_html(results(), profile)
    assert not re.search(r"(src|href)=\"(https?:)?//|<script|@import|url\(", html)


def test_a_wrong_answer_is_shown_with_the_right_one(profile):
    html = page_html(results(), profile)
    assert '<span class="right">three</span></dd>' in html
    assert '<span class="wrong">&lt;red&gt;</span> <small>(it is: blue)</small>' in html


def test_the_bars_of_the_chart_are_as_long_as_the_shares(profile):
    widths = [float(width) for width in re.findall(r'width="([0-9.]+)"', chart_svg(profile["requests"]))]
    assert sum(widths) == pytest.approx(860 - 96 - 80, abs=0.2)


def test_every_picture_of_the_page_is_a_file(fake, tmp_path, profile):
    from illume_runtime.pipeline import Pipeline
    from illume_runtime.trace import NULL_TRACER

    steps = []
    collected = collect(Pipeline.load("b", tracer=NULL_TRACER), tmp_path, lambda *step: steps.append(step))
    parser = Balance()
    parser.feed(page_html(collected, profile))
    assert len(parser.sources) > 20
    assert all((tmp_path / source).is_file() for source in parser.sources)
    assert {what for what, done, total in steps if done == total} == {"describe", "draw", "edit", "reconstruct"}
