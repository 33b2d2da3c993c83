"""Intervals against published values, and tallies."""

from __future__ import annotations

import pytest

from illume_training.evaluation.figures import TARGETS, Figure, Tally, wilson_interval


@pytest.mark.parametrize(
    ("num_right", "num_cases", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # The other end, by symmetry.
        (20, 20, 0.8389, 1.0),
        (28, 29, 0.8282, 0.9939),
    ],
)
def test_wilson_intervals(num_right: int, num_cases: int, low: float, high: float) -> None:
    assert wilson_interval(num_right, num_cases) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("num_right", [0, 1, 17, 499, 500])
def test_the_share_lies_in_its_interval_and_that_in_0_to_1(num_right: int) -> None:
    low, high = wilson_interval(num_right, 500)
    assert 0.0 <= low <= num_right / 500 <= high <= 1.0


@pytest.mark.parametrize(("num_right", "num_cases"), [(0, 0), (3, 2), (-1, 5)])
def test_counts_that_cannot_be_are_refused(num_right: int, num_cases: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= right <= cases"):
        wilson_interval(num_right, num_cases)


def test_a_tally_counts_aspects_apart_and_aims_at_the_test_split_only() -> None:
    tally = Tally()
    for number in range(10):
        tally.add("draw", "test", {"object": number < 9, "all": number < 5, **({"count": True} if number < 2 else {})})
    tally.add("draw", "held_out", {"object": False})
    figures = {(f.split, f.aspect): f for f in tally.figures()}
    assert figures["test", "object"] == Figure("draw", "test", "object", 9, 10, 0.95)
    assert figures["test", "count"] == Figure("draw", "test", "count", 2, 2, 0.85)
    assert figures["test", "all"] == Figure("draw", "test", "all", 5, 10, None)
    assert figures["held_out", "object"] == Figure("draw", "held_out", "object", 0, 1, None)
    assert [f.is_met for f in figures.values()] == [False, None, True, None]


def test_a_target_is_met_at_its_own_share() -> None:
    assert Figure("edit", "test", "all", 4, 5, TARGETS["edit", "all"]).is_met
    assert not Figure("edit", "test", "all", 399, 500, TARGETS["edit", "all"]).is_met
