"""The figures of docs/self-enhancement.md: AUROC, agreement, and the page that they are written into."""

import numpy as np
import pytest

from benchmarks import enhance
from illume_runtime.enhance.assessment import assessment


@pytest.mark.parametrize(
    ("scores", "right", "expected"),
    [([0.9, 0.8, 0.1], [1, 1, 0], 1.0), ([0.1, 0.9], [1, 0], 0.0), ([0.5, 0.5, 0.5], [1, 0, 0], 0.5)],
    ids=["all in order", "reversed", "ties"],
)
def test_auroc(scores, right, expected):
    assert enhance.auroc(np.array(scores), np.array(right, bool)) == expected


def test_agreement_counts_a_dimension_only_where_both_judge_it():
    def one(score, **dimensions):
        return assessment("1", "p", "j", {name: (value, "a") for name, value in dimensions.items()}, score, "a")

    found = [one(0.9, object=1.0), one(0.2, object=0.0, count=1.0), one(0.6)]
    truth = [one(1.0, object=1.0), one(0.0, object=1.0), one(0.0, color=1.0)]
    assert enhance.agreement(found, truth) == pytest.approx(
        {"agreement": 2 / 3, "agreement, object": 0.5, "AUROC": 1.0}
    )


def test_the_page_takes_a_section():
    text = enhance.PAGE.read_text(encoding="utf-8")
    assert f"{enhance.BEGIN}\nnew\n{enhance.END}" in enhance.page_with(text, "new")
    with pytest.raises(ValueError, match="expected the lines"):
        enhance.page_with("above", "new")


def test_seeds_are_a_mean_and_a_range():
    seeds, one = (
        [{"draw: all": 0.1, "plain: ms": 50.0}, {"draw: all": 0.3}],
        [{"draw: all": 0.4, "best of 1: ms": 90.4}],
    )
    page = enhance.section({"without": seeds, "with": one}, {}, 4)
    assert "| | without, 2 seeds | with |\n| --- | ---: | ---: |\n" in page
    assert "| draw: all | 0.200 (0.100 to 0.300) | 0.400 |" in page
    assert "| best of 1: ms |  | 90 |" in page
    assert "| plain: ms |  |  |" in page


def test_what_was_measured_of_a_bundle_is_kept_until_it_changes(tmp_path, monkeypatch):
    bundle, measured = tmp_path / "a.bundle", []
    bundle.mkdir()
    (bundle / "bundle.json").write_text("{}")
    monkeypatch.setattr(enhance, "figures_of", lambda *words: measured.append(words) or {"draw: all": 0.5})
    assert [enhance.kept_figures(bundle, 4, None) for _ in range(2)] == [{"draw: all": 0.5}] * 2
    assert len(measured) == 1
    enhance.kept_figures(bundle, 5, None)
    (bundle / "bundle.json").write_text("{ }")
    enhance.kept_figures(bundle, 5, None)
    assert len(measured) == 3
