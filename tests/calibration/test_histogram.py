import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from illume_calibration.histogram import NUM_BINS, Histogram
from illume_calibration.ranges import LEVELS, METHODS, least_values, range_from_histogram

FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
ARRAYS = npst.arrays(np.float32, st.integers(1, 200), elements=FLOATS)


def histogram_of(*parts):
    made = Histogram()
    for part in parts:
        made.add(part)
    return made


def same(a, b):
    return a.exponent == b.exponent and a.largest == b.largest and np.array_equal(a.counts, b.counts)


@settings(max_examples=60, deadline=None)
@given(values=ARRAYS, cut=st.integers(0, 200))
def test_the_order_and_the_parts_of_a_stream_do_not_matter(values, cut):
    whole = histogram_of(values)
    assert whole.num_values == values.size
    assert same(whole, histogram_of(values[cut:], values[:cut]))
    assert same(whole, histogram_of(*np.array_split(np.sort(values)[::-1], 7)))
    merged = histogram_of(values[:cut])
    merged.merge(histogram_of(values[cut:]))
    assert same(whole, merged)


def test_every_value_lies_in_its_bin():
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32) * 37
    made = histogram_of(values)
    assert made.largest == np.abs(values).max() < made.limit
    expected, _ = np.histogram(np.abs(values.astype(np.float64)), NUM_BINS, (0, made.limit))
    assert np.array_equal(made.counts, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_numbers_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        histogram_of(np.array([1.0, bad], np.float32))


@pytest.mark.parametrize("method", METHODS)
def test_too_few_values_are_refused(method):
    with pytest.raises(ValueError, match=f"{method} needs at least {least_values(method, 99.9)}"):
        range_from_histogram(histogram_of(np.ones(0, np.float32)), method, 99.9)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_have_a_positive_range(method):
    assert 0 < range_from_histogram(histogram_of(np.zeros(20_000, np.float32)), method, 99.9) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20, deadline=None)
@given(exponent=st.integers(-12, 12), seed=st.integers(0, 2**31))
def test_ranges_scale_with_the_values_and_stay_within_them(method, exponent, seed):
    values = np.random.default_rng(seed).standard_normal(20_000).astype(np.float32)
    found = range_from_histogram(histogram_of(values), method, 99.9)
    assert 0 < found <= np.abs(values).max()
    scaled = range_from_histogram(histogram_of(values * np.float32(2.0**exponent)), method, 99.9)
    assert scaled == pytest.approx(found * 2.0**exponent, rel=1e-6)


def test_minmax_is_the_largest_value_and_percentile_leaves_out_what_it_says():
    values = np.concatenate([np.linspace(0, 1, 9_990), np.full(10, 50.0)]).astype(np.float32)
    made = histogram_of(values)
    assert range_from_histogram(made, "minmax", 99.9) == 50.0
    assert range_from_histogram(made, "percentile", 99.8) == pytest.approx(1.0, abs=0.05)
    assert range_from_histogram(made, "percentile", 100.0) == 50.0


def test_mse_is_as_good_as_trying_every_range_on_the_values_themselves():
    values = np.random.default_rng(1).laplace(size=50_000).astype(np.float32)

    def error(limit):
        scale = limit / LEVELS
        return np.square(values - np.clip(np.rint(values / scale), -LEVELS, LEVELS) * scale).mean()

    found = range_from_histogram(histogram_of(values), "mse", 99.9)
    best = min(error(limit) for limit in np.linspace(0.05, 1.0, 300) * np.abs(values).max())
    assert error(found) <= 1.02 * best


@pytest.mark.parametrize(("method", "most"), [("mse", 150.0), ("entropy", 100.0)], ids=["mse", "entropy"])
def test_an_outlier_is_clipped_where_that_serves_the_rest(method, most):
    values = np.random.default_rng(2).standard_normal(100_000).astype(np.float32)
    values[0] = 200.0
    # mse: (200 - r)^2 for the outlier and 1e5 (r / 127)^2 / 12 for the rest are least at r = 132
    assert 2.0 < range_from_histogram(histogram_of(values), method, 99.9) < most
